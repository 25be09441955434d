"""Challenges: the best pictures that the course's trained network gives within a budget, paid by their FID.

measuring   the network, the pictures' distance from real ones, the points
sampler     ps4: a sampler that looks five times
plan        ps5: eight evaluations, guided where it helps
"""

from ddpm_lib.course.challenges.plan import eight_evaluations
from ddpm_lib.course.challenges.sampler import five_looks

__all__ = ["eight_evaluations", "five_looks"]

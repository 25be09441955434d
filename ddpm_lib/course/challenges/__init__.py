"""Challenges: the best pictures that the course's trained network gives within a budget, paid by their FID.

measuring   the network, the pictures' distance from real ones, the points
late        ps1: where sampling begins, at the noised pictures of a normal distribution
places      ps2: five places in the schedule
sampler     ps4: a sampler that looks five times
plan        ps5: eight evaluations, guided where it helps
mixture     ps6: a sum of the weights of twelve epochs
visits      what ps1, ps2 and ps5 share: timesteps that a student chose
"""

from ddpm_lib.course.challenges.late import late_start
from ddpm_lib.course.challenges.mixture import twelve_epochs
from ddpm_lib.course.challenges.places import five_places
from ddpm_lib.course.challenges.plan import eight_evaluations
from ddpm_lib.course.challenges.sampler import five_looks

__all__ = ["eight_evaluations", "five_looks", "five_places", "late_start", "twelve_epochs"]

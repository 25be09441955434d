"""Challenges: the best pictures that the course's trained network gives within a budget, paid by their FID.

measuring   the network, the pictures' distance from real ones, the points
late        ps1: where sampling begins, at the noised pictures of a normal distribution
places      ps2: five places in the schedule
values      ps3: the network in three bits a weight
sampler     ps4: a sampler that looks five times
plan        ps5: eight evaluations, guided where it helps
mixture     ps6: a sum of the weights of twelve epochs
visits      what most of them share: the process that has a few timesteps only
"""

from ddpm_lib.course.challenges.late import late_start
from ddpm_lib.course.challenges.mixture import twelve_epochs
from ddpm_lib.course.challenges.places import five_places
from ddpm_lib.course.challenges.plan import eight_evaluations
from ddpm_lib.course.challenges.sampler import five_looks
from ddpm_lib.course.challenges.values import eight_values

__all__ = ["eight_evaluations", "eight_values", "five_looks", "five_places", "late_start", "twelve_epochs"]

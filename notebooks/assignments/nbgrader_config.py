"""The course for nbgrader's own commands and JupyterLab's formgrader: the same settings as `ddpm course`."""

from pathlib import Path

from ddpm_lib.course.grading import settings

get_config().merge(settings(Path(__file__).parent))  # noqa: F821 (nbgrader puts it here)

"""The course for nbgrader; `ddpm course` and JupyterLab's formgrader both read it."""

c = get_config()  # noqa: F821 (nbgrader puts it here)
c.CourseDirectory.course_id = "ddpm"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your code here"}
c.ClearSolutions.text_stub = "Your answer here."

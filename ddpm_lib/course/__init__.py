"""`ddpm course`: the assignments for the teacher, over nbgrader; students' code runs in a sandbox.

assignments   hand out, grade in parallel, give feedback, report
grading       one submission
submissions   what students hand in: found, read, its tests put back
sandbox       the kernel for code of strangers
challenges    a package: optional exercises that pay for measured quality; notebooks of students use this one
cli           the commands
"""

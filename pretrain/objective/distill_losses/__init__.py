"""Distillation losses, one a file: a function of the student's output and some of ``target``, ``widest`` and ``wider``, or a class
that extends LossModule.

All are (B, D) and without gradient but for the student's: ``target`` is what the teacher says, ``widest`` the output of the step's
widest network and ``wider`` the projection of the next wider width, both of the student's own view.
"""

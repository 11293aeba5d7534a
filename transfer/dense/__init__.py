"""What detection and segmentation share: scenes, schedules, run directories, trunks and pictures.

A task fine-tunes one network for each width. It makes a list of :class:`~transfer.dense.job.Job` and hands it to
:func:`~transfer.dense.job.run_jobs` together with a function that trains and scores one of them.
"""

"""What a network learns to undo or to find: pure functions of a batch of healthy slices and a seed."""

from brainseg_tf.corruption.task import Task, corrupt

__all__ = ["Task", "corrupt"]

"""Corruption of healthy slices: squares and circles, coarse noise, synthetic lesions, augmentation."""

from brainseg_tf.corruption.task import CorruptionTask, Task, corrupt

__all__ = ["CorruptionTask", "Task", "corrupt"]

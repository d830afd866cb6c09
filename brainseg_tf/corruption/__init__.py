"""What healthy slices are corrupted with: squares and circles, coarse noise, synthetic lesions."""

from brainseg_tf.corruption.task import CorruptionTask, Task, corrupt

__all__ = ["CorruptionTask", "Task", "corrupt"]

"""Level 2: LightningModules."""

from lightning_qsgd.tasks.classification import SequenceClassification as SequenceClassification

"""The LightningModules."""

from lightning_qsgd.tasks.classification import SequenceClassification as SequenceClassification
from lightning_qsgd.tasks.language_modeling import CausalLanguageModeling as CausalLanguageModeling
from lightning_qsgd.tasks.supervised import Supervised as Supervised

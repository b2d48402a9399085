"""Level 1: data modules. They import nothing else of this package."""

from lightning_qsgd.datamodules.images import Images as Images
from lightning_qsgd.datamodules.instruction import GSM8K as GSM8K
from lightning_qsgd.datamodules.instruction import InstructionTuning as InstructionTuning
from lightning_qsgd.datamodules.loading import evaluation_loader as evaluation_loader
from lightning_qsgd.datamodules.synthetic import SyntheticSequences as SyntheticSequences
from lightning_qsgd.datamodules.table import Table as Table
from lightning_qsgd.datamodules.text import TextClassification as TextClassification
from lightning_qsgd.datamodules.tokenizer import load_tokenizer as load_tokenizer
from lightning_qsgd.datamodules.windows import Windows as Windows

"""Level 1: models as plain nn.Modules."""

from lightning_qsgd.models.attention import SelfAttention as SelfAttention
from lightning_qsgd.models.quantum_head import QuantumHead as QuantumHead
from lightning_qsgd.models.transformer import TransformerClassifier as TransformerClassifier

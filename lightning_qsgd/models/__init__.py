"""Models as plain ``nn.Module`` subclasses."""

from lightning_qsgd.models.attention import Attention as Attention
from lightning_qsgd.models.attention_kernels import series_attention as series_attention
from lightning_qsgd.models.quantum_attention import QuantumAttention as QuantumAttention
from lightning_qsgd.models.quantum_head import QuantumHead as QuantumHead
from lightning_qsgd.models.transformer import TransformerClassifier as TransformerClassifier

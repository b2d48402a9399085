"""Models as plain ``nn.Module`` subclasses."""

from lightning_qsgd.models.attention import Attention as Attention
from lightning_qsgd.models.attention_kernels import series_attention as series_attention
from lightning_qsgd.models.parts import MLP as MLP
from lightning_qsgd.models.parts import ComposedModel as ComposedModel
from lightning_qsgd.models.parts import Identity as Identity
from lightning_qsgd.models.parts import Linear as Linear
from lightning_qsgd.models.parts import Recurrent as Recurrent
from lightning_qsgd.models.parts import SmallCNN as SmallCNN
from lightning_qsgd.models.quantum_attention import QuantumAttention as QuantumAttention
from lightning_qsgd.models.quantum_body import QuantumBody as QuantumBody
from lightning_qsgd.models.quantum_body import QuantumLSTM as QuantumLSTM
from lightning_qsgd.models.quantum_head import QuantumHead as QuantumHead
from lightning_qsgd.models.transformer import TransformerClassifier as TransformerClassifier
from lightning_qsgd.models.transformer import TransformerEncoder as TransformerEncoder

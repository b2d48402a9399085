"""A tokenizer that is made in no time: byte-level BPE with digits apart, and tokens for begin, end and turns."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<turn>' + m['role'] + '\n' + m['content'] + '<end>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)
LINES = ["Question: How many apples are there?\nAnswer: There are 3 apples.\n#### 3"]


def tiny_tokenizer(folder, chat_template=TEMPLATE, begin=True, pad_token="<pad>", extra=()):
    """Save it into a folder, which is returned as text; it puts ``<bos>`` before texts where ``begin`` is true."""
    special = ["<bos>", "<eos>", "<turn>", "<end>", *([pad_token] if pad_token else []), *extra]
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token=pad_token
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return str(folder)

"""A random two-layer Llama, and instruction data of a user's own."""

import json
import re

import lightning as L
import torch
from torch.nn.utils.rnn import pad_sequence

from lightning_qsgd.datamodules.loading import evaluation_loader, train_loader

#: Questions with answers as in GSM8K.
ROWS = [(f"What is {a} plus {b}?", f"{a}+{b}={a + b}\n#### {a + b}") for a in range(4) for b in range(3)]


def save_llm(folder, **config):
    """Write weights, configuration and tokenizer as transformers does; returns the folder's path as a string."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny_tokenizer import tiny_tokenizer

    tiny_tokenizer(folder, begin=False)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    sizes |= {"num_hidden_layers": 2, "vocab_size": 320, "max_position_embeddings": 512}
    options = {"tie_word_embeddings": True, "pad_token_id": 4, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes | options | config)).save_pretrained(folder)
    return str(folder)


def save_rows(path, rows=ROWS):
    """Write JSON lines with GSM8K's keys."""
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return str(path)


class Rows(L.LightningDataModule):
    """Questions and answers, in order, as the task takes them; the same rows for each split."""

    def __init__(self, pretrained: str, size: int = len(ROWS), batch_size: int = 1, mask_prompt: bool = False):
        super().__init__()
        from transformers import AutoTokenizer

        self.rows, self.batch_size, self.mask_prompt = ROWS[:size], batch_size, mask_prompt
        self.tokenizer = AutoTokenizer.from_pretrained(pretrained)

    def is_correct(self, generated, row):
        found = re.search(r"#### (-?\d+)", generated)
        return found is not None and found[1] == row["reference"]

    def batch(self, rows, width=0):
        """A batch of (id, (question, answer)); at least ``width`` tokens wide."""
        encode = lambda text: torch.tensor(self.tokenizer(text)["input_ids"])  # noqa: E731
        prompts = [encode(f"Question: {q}\nAnswer:") for _, (q, _) in rows]
        end = torch.tensor([self.tokenizer.eos_token_id])
        texts = [torch.cat([p, encode(f" {a}"), end]) for p, (_, (_, a)) in zip(prompts, rows)]
        pad = lambda parts, side: pad_sequence(parts, batch_first=True, padding_side=side)  # noqa: E731
        tokens, place = pad(texts, "right"), torch.arange(max(width, *map(len, texts), 0))
        tokens = torch.nn.functional.pad(tokens, (0, len(place) - tokens.shape[1]))
        padding = place >= torch.tensor([len(t) for t in texts])[:, None]
        answer = ~padding & (place >= torch.tensor([len(p) for p in prompts])[:, None])
        prompt_tokens = pad(prompts, "left")
        columns = torch.arange(prompt_tokens.shape[1])
        return {
            "tokens": tokens, "padding_mask": padding, "answer_mask": answer,
            "loss_mask": answer if self.mask_prompt else ~padding & (place > 0),
            "prompt_tokens": prompt_tokens,
            "prompt_padding_mask": columns < len(columns) - torch.tensor([len(p) for p in prompts])[:, None],
            "id": [i for i, _ in rows], "prompt": [q for _, (q, _) in rows], "answer": [a for _, (_, a) in rows],
            "reference": [a.split()[-1] for _, (_, a) in rows],
        }  # fmt: skip

    def train_dataloader(self):
        return train_loader(list(enumerate(self.rows)), self.batch_size, self.trainer, collate_fn=self.batch)

    def val_dataloader(self):
        return evaluation_loader(list(enumerate(self.rows)), self.batch_size, self.trainer, collate_fn=self.batch)

    test_dataloader = predict_dataloader = val_dataloader

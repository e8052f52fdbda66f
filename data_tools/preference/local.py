"""A transformers model in this process: replies, and log-probabilities of given replies. One request at a time.

Chat models of text, or of text and pictures, in the layout of ``save_pretrained`` with a chat template. Reads no model of this toolkit:
export one first, or serve it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from data_tools.preference.endpoints import Endpoint
from data_tools.preference.messages import ChatRequest, Message, Picture
from unipixel.errors import ConfigError, SampleError
from unipixel.model.prefix import token_scores


class LocalModel:
    """Backend ``local``, on the GPU when there is one.

    Raises:
        ConfigError: the folder holds no chat model.
    """

    def __init__(self, endpoint: Endpoint):
        self.endpoint, self._mutex = endpoint, Lock()
        where = {"revision": endpoint.revision} if endpoint.revision else {}
        try:
            config = AutoConfig.from_pretrained(endpoint.model, **where)
            sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
            self.processor = AutoProcessor.from_pretrained(endpoint.model, **where)
            self.model = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(endpoint.model, dtype="auto", **where)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model={endpoint.model!r} cannot be loaded as a local chat model: {error}") from error
        self.text_only = isinstance(self.processor, PreTrainedTokenizerBase)
        self.tokenizer = self.processor if self.text_only else self.processor.tokenizer
        if not getattr(self.processor, "chat_template", None):
            raise ConfigError(f"model={endpoint.model!r} has no chat template: it cannot play a role")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @torch.no_grad()
    def reply(self, request: ChatRequest) -> dict[str, Any]:
        """Record of one reply, as :meth:`Service.reply <data_tools.preference.service.Service.reply>`."""
        sampling, start = request.sampling, time.monotonic()
        inputs = self._inputs(request.messages)
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {
            "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with self._mutex, torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            out = self.model.generate(**inputs, max_new_tokens=sampling.max_tokens, **drawn | dict(sampling.extra))
        prompt = inputs["input_ids"].shape[1]
        new = out[0, prompt:]
        return {"text": self.tokenizer.decode(new, skip_special_tokens=True), "finish": "length" if len(new) >= sampling.max_tokens else "stop",
                "usage": {"prompt": prompt, "completion": len(new)}, "served": self.endpoint.identity,
                "seconds": round(time.monotonic() - start, 3), "attempts": 1}

    @torch.no_grad()
    def log_prob(self, messages: Sequence[Message], reply: str) -> tuple[float, int]:
        """(sum of log-probabilities in nats of the reply's tokens and of the token that ends it, number of these tokens).

        Token t is scored by the logits at t - 1.
        """
        inputs = self._inputs(messages)
        prompt = inputs["input_ids"]
        words = [*self.tokenizer.encode(reply, add_special_tokens=False), self.tokenizer.eos_token_id]
        added = torch.tensor([words], device=prompt.device)
        longer = {name: self._longer(name, value, added) if isinstance(value, Tensor) and value.shape == prompt.shape else value
                  for name, value in inputs.items()}
        with self._mutex:
            logits = self.model(**longer).logits[0, prompt.shape[1] - 1:-1].float()
        return float(token_scores(logits, added[0]).log_probs.double().sum()), len(words)

    @staticmethod
    def _longer(name: str, value: Tensor, added: Tensor) -> Tensor:
        """An input that has one value per token, continued over the reply; what a processor says beyond ids and mask is 0 for text."""
        tail = {"input_ids": added, "attention_mask": torch.ones_like(added)}.get(name, torch.zeros_like(added))
        return torch.cat([value, tail.to(value.dtype)], 1)

    def _inputs(self, messages: Sequence[Message]) -> dict[str, Tensor]:
        pictures = any(isinstance(part, Picture) for message in messages for part in message.parts)
        if pictures and self.text_only:
            raise ConfigError(f"model={self.endpoint.model!r} reads text only: this role is shown frames")
        dialogue = [{"role": m.role, "content": m.text if self.text_only else [_part(p) for p in m.parts]} for m in messages]
        try:
            inputs = self.processor.apply_chat_template(dialogue, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        except (OSError, ValueError) as error:
            raise SampleError(f"the model's processor refuses the request: {error}", reason="refused") from error
        return {name: value.to(self.model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": Image.open(io.BytesIO(part.data)).convert("RGB")}

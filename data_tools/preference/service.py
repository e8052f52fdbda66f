"""Replies from a server with the chat-completions interface (OpenAI's own, vLLM, ``transformers serve``), through the ``openai`` package.

What may pass (rate limit, failing server, no connection) is tried again; what cannot is told apart: an error of one request is that
request's (``SampleError``), an error that all requests would meet ends the run (``ConfigError``, ``DataError``).
"""

from __future__ import annotations

import math
import time
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from data_tools.preference.endpoints import SAMPLING, Endpoint
from data_tools.preference.messages import ChatRequest, as_openai
from unipixel.errors import ConfigError, DataError, SampleError

LONGEST_WAIT_S = 60.0
BACKOFF = wait_exponential_jitter(multiplier=0.5, max=LONGEST_WAIT_S)
QUOTA = "insufficient_quota"
"""A rate limit that waiting does not lift."""


class Service:
    """Backend ``openai``.

    Raises:
        ConfigError: the package is missing, or the key's environment variable.
    """

    def __init__(self, endpoint: Endpoint):
        try:
            import openai  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError("replies from a server need the openai package: pip install 'unipixel-train[judge]'") from None
        self.endpoint, self.openai = endpoint, openai
        self.client = openai.OpenAI(api_key=endpoint.key, base_url=endpoint.base_url, timeout=endpoint.timeout_s, max_retries=0)

    def reply(self, request: ChatRequest) -> dict[str, Any]:
        """Record of one reply: ``text``, ``finish``, ``usage`` (``None`` when the server does not say), ``served``, ``seconds``, ``attempts``.

        Raises:
            SampleError: ``refused``, ``server_error``, ``timeout`` or ``bad_reply``.
            ConfigError: key, right, address or model name are wrong.
            DataError: the server cannot be reached, or its rate limit does not lift.
        """
        openai, start = self.openai, time.monotonic()
        sampling = {name: getattr(request.sampling, name) for name in SAMPLING if name not in self.endpoint.omit}
        retrying = Retrying(retry=retry_if_exception(self._may_pass), stop=stop_after_attempt(self.endpoint.max_attempts), wait=_wait, reraise=True)
        try:
            completion = retrying(self.client.chat.completions.create, model=self.endpoint.model, messages=as_openai(request.messages),
                                  max_completion_tokens=request.sampling.max_tokens, extra_body=dict(request.sampling.extra) or None, **sampling)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(f"{self.endpoint.base_url} refuses the key (key_env={self.endpoint.key_env!r}): {_told(error)}") from error
        except openai.NotFoundError as error:
            raise ConfigError(f"{self.endpoint.base_url} knows no such page or model={self.endpoint.model!r}: {_told(error)}") from error
        except openai.RateLimitError as error:
            raise DataError(f"{self.endpoint.base_url} keeps limiting the rate ({_told(error)}): lower concurrency or wait, then start the same "
                            "command again") from error
        except openai.APITimeoutError as error:
            raise SampleError(f"no reply within timeout_s={self.endpoint.timeout_s:g}", reason="timeout") from error
        except openai.APIConnectionError as error:
            raise DataError(f"{self.endpoint.base_url} cannot be reached ({_told(error)}): start the server, then the same command again") from error
        except openai.InternalServerError as error:
            raise SampleError(f"the server failed: {_told(error)}", reason="server_error") from error
        except openai.APIStatusError as error:
            raise SampleError(f"the server refuses the request: {_told(error)}", reason="refused") from error
        except (openai.APIError, ValueError) as error:  # a reply that is no JSON
            raise SampleError(f"the server's reply cannot be read: {_told(error)}", reason="bad_reply") from error
        return _record(completion) | {"seconds": round(time.monotonic() - start, 3), "attempts": retrying.statistics["attempt_number"]}

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, self.openai.RateLimitError):
            return getattr(error, "code", None) != QUOTA
        return isinstance(error, (self.openai.APIConnectionError, self.openai.InternalServerError))


def _wait(state: RetryCallState) -> float:
    """Seconds until the next try: what the server asks for, else growing from half a second."""
    error = state.outcome.exception()
    asked = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        return BACKOFF(state)
    return min(seconds, LONGEST_WAIT_S) if math.isfinite(seconds) and seconds >= 0 else BACKOFF(state)


def _told(error: Exception) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"[:300]


def _record(completion: Any) -> dict[str, Any]:
    """The parts that are kept; servers differ in how much of the interface they fill in."""
    try:
        choice = completion.choices[0]
        text, finish = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        raise SampleError(f"the server's reply is no chat completion: {str(completion)[:120]!r}", reason="bad_reply") from None
    if text is not None and not isinstance(text, str):
        raise SampleError(f"the reply's content is {type(text).__name__}, not text", reason="bad_reply")
    usage = getattr(completion, "usage", None)
    tokens = {name: getattr(usage, f"{name}_tokens", None) for name in ("prompt", "completion")}
    known = all(isinstance(n, int) for n in tokens.values())
    return {"text": text or "", "finish": str(finish), "usage": tokens if known else None, "served": str(getattr(completion, "model", "") or "")}

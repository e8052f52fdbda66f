"""Which model plays which role, and where it is reached: a YAML file of one mapping per role.

    answerer: {model: Qwen/Qwen2.5-VL-7B-Instruct, base_url: "http://localhost:8000/v1", concurrency: 16}
    judge:    {model: gpt-5-mini, base_url: "https://api.openai.com/v1", key_env: OPENAI_API_KEY, price_in: 0.25, price_out: 2.0}

A key of a service is never written here: ``key_env`` names the environment variable that holds it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unipixel.config import setting
from unipixel.errors import ConfigError, nearest

BACKENDS = ("openai", "local", "recorded")
SAMPLING = ("temperature", "top_p", "seed")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One role's model."""

    model: str = setting("", "name of the model at its service, or the folder of a local one")
    revision: str = setting("", "which weights the name stands for, where the service does not say; part of the provenance and of the request's hash")
    backend: str = setting("openai", "openai: any compatible server; local: transformers in this process; recorded: stored replies only")
    base_url: str = setting("", "address of the service up to /v1; backend openai only")
    key_env: str = setting("", "environment variable with the service's key; empty: it wants none")
    concurrency: int = setting(8, "requests under way at once; a local model answers one at a time")
    max_attempts: int = setting(5, "tries of a request that meets a rate limit, a failing server or no connection")
    timeout_s: float = setting(300.0, "seconds until a try counts as failed")
    price_in: float = setting(0.0, "price of a million tokens of prompt")
    price_out: float = setting(0.0, "price of a million tokens of reply")
    omit: list[str] = setting([], "sampling parameters that the service refuses and that are not sent: temperature, top_p, seed")

    def __post_init__(self):
        if not self.model:
            raise ConfigError("model is empty: name one")
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend={self.backend!r} must be one of {BACKENDS}")
        if (self.backend == "openai") != bool(self.base_url):
            raise ConfigError(f"base_url={self.base_url!r} with backend={self.backend!r}: set it for openai, and for openai only")
        if self.key_env and self.backend != "openai":
            raise ConfigError(f"key_env={self.key_env!r} has no effect with backend={self.backend!r}")
        for name in ("concurrency", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("timeout_s", "price_in", "price_out"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if unknown := set(self.omit) - set(SAMPLING):
            raise ConfigError(f"omit names {sorted(unknown)}, which are not among {SAMPLING}")

    @property
    def identity(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    @property
    def key(self) -> str:
        """The service's key.

        Raises:
            ConfigError: ``key_env`` names a variable that is not set.
        """
        if not self.key_env:
            return "none"  # the client wants some text, and would otherwise take OPENAI_API_KEY unasked
        if not os.environ.get(self.key_env):
            raise ConfigError(f"key_env={self.key_env!r}: this environment variable is not set; export the key of {self.base_url} in it")
        return os.environ[self.key_env]


def read_endpoints(path: str | Path, roles: tuple[str, ...]) -> dict[str, Endpoint]:
    """Role -> endpoint of those roles that are needed; the file may hold more of ``ROLES``.

    Raises:
        ConfigError: a role is missing or unknown, or one of its settings is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--models {str(path)!r} is not a file: write a YAML mapping of the roles {list(roles)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(value, dict) for value in raw.values()):
        raise ConfigError(f"{path} must be a mapping of roles, each a mapping of settings; roles: {ROLES}")
    if unknown := set(raw) - set(ROLES):
        raise ConfigError(f"{path}: unknown role {min(unknown)!r}{nearest(min(unknown), ROLES)}; roles: {ROLES}")
    if missing := [role for role in roles if role not in raw]:
        raise ConfigError(f"{path} has no {missing}: this command needs the roles {list(roles)}")
    return {role: _endpoint(raw[role], f"{path}: {role}") for role in roles}


ROLES = ("captioner", "writer", "answerer", "judge", "policy", "reference")
"""captioner: video to text; writer: questions and rationales; answerer: replies; judge: scores and verdicts; policy, reference: log-probabilities."""


def _endpoint(raw: dict[str, Any], where: str) -> Endpoint:
    fields = {f.name: f for f in dataclasses.fields(Endpoint)}
    kinds = {"str": str, "int": int, "float": (int, float), "list[str]": list}
    for name, value in raw.items():
        if name not in fields:
            raise ConfigError(f"{where}: unknown setting {name!r}{nearest(name, fields)}")
        if not isinstance(value, kinds[fields[name].type]) or isinstance(value, bool):
            raise ConfigError(f"{where}: {name}={value!r} is not of type {fields[name].type}")
    try:
        return Endpoint(**raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error

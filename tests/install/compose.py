"""What compose.yaml says of the app and of its proxy, for a start without Docker."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.processes import ROOT


@dataclass(frozen=True)
class Compose:
    """The file with its variables filled in."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Compose:
        text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
        return cls(yaml.safe_load(filled(text, variables or {})))

    @property
    def services(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.values["services"]
        return found

    def app(self, variant: str) -> Mapping[str, Any]:
        return self.services[f"app-{variant}"]

    def grace_seconds(self, variant: str) -> float:
        return float(str(self.app(variant)["stop_grace_period"]).removesuffix("s"))

    @property
    def network(self) -> ipaddress.IPv4Network:
        (subnet,) = self.values["networks"]["inside"]["ipam"]["config"]
        return ipaddress.IPv4Network(subnet["subnet"])

    @property
    def proxy_address(self) -> str:
        return str(self.services["proxy"]["networks"]["inside"]["ipv4_address"])

    @property
    def an_app_address(self) -> str:
        """An address that Docker may give the app: the last of the network."""
        return str(self.network[-2])

    @property
    def caddyfile(self) -> str:
        return str(self.values["configs"]["caddyfile"]["content"])


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Fills in `${NAME:-default}`; `$$` is a dollar sign."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1]) or found[2]

    return re.sub(r"\$\$|\$\{(\w+):-([^}]*)\}", value, text)

"""The address of the page: `/?tab=compare&sweep=ID` opens the Compare tab with that sweep.

A `TabSpec` lists the parameters that its tab reads. The HTML of a tab names what it shows in
`data-address` (see `address_of`). `assets/address.js` keeps the browser's address equal to that,
and sends every address that was entered, followed or gone back to. `Links.asked` passes its values
on to the tabs, which treat them like any other input of a visitor.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names, shorten
from ftlab.tabs.context import QUIET, Asked, Links, TabSpec, tabs
from ftlab.tabs.widgets import H, escape, warn

_LONGEST_ADDRESS, _LONGEST_VALUE, _MOST_PARAMETERS = 4_000, 300, 50
_BEGIN = "window.ft.address.begin((address, shown) => trigger('select', { address, shown }));"
_ANSWERED = "() => window.ft.address.answered()"


def address_of(**values: str) -> str:
    """HTML: the attribute by which an element says which view it is, as in `sweep=ID`."""
    return f'data-address="{escape(urlencode(values))}"'


def read_address(address: Any) -> tuple[TabSpec, dict[str, str]]:
    """Returns the tab, and the value of each of its parameters; "" for those that are missing.

    Unknown parameters are ignored. Raises `FtlabError` if there is no such tab, or if the address
    or a value is too long.
    """
    if not isinstance(address, str) or len(address) > _LONGEST_ADDRESS:
        raise FtlabError(
            f"The address is no text of at most {_LONGEST_ADDRESS:,} characters; the page is shown "
            "as it is without it."
        )
    try:
        given = dict(parse_qsl(address.removeprefix("?"), max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        raise FtlabError(
            f"The address has more than {_MOST_PARAMETERS} parameters; the page is shown as it is "
            "without them."
        ) from None
    specs = tabs()
    name = given.get("tab", specs[0].id)
    spec = next((spec for spec in specs if spec.id == name), None)
    if spec is None:
        known = join_names([spec.id for spec in specs])
        raise FtlabError(f"There is no tab '{shorten(name, 40)}'; the tabs are {known}.")
    values = {parameter: given.get(parameter, "") for parameter in spec.address}
    for parameter, value in values.items():
        longest = spec.longest.get(parameter, _LONGEST_VALUE)
        if len(value) > longest:
            raise FtlabError(
                f"'{parameter}' of the address has {len(value):,} characters; at most "
                f"{longest:,} are read."
            )
    return spec, values


def _tab_in(address: Any) -> Any:
    """An update that opens the tab of an address whose other values cannot be used."""
    named = re.match(r"\??(?:.*&)?tab=(\w+)", str(address)[:_LONGEST_ADDRESS])
    known = named and named[1] in {spec.id for spec in tabs()}
    return gr.Tabs(selected=named[1]) if named and known else gr.skip()


def build_address(links: Links) -> None:
    """Opens the tab of an address and passes its values on; a wrong address is only reported."""
    address = H(js_on_load=_BEGIN, elem_classes="ft-carrier")

    def follow(event: gr.EventData) -> list[Any]:
        try:
            spec, values = read_address(getattr(event, "address", None))
        except FtlabError as error:
            warn(str(error))
            return [_tab_in(getattr(event, "address", None)), *[gr.skip()] * len(links.asked)]
        asked = [Asked(values[name]) if name in values else None for name in links.asked]
        is_shown = getattr(event, "shown", None) == spec.id
        return [gr.skip() if is_shown else gr.Tabs(selected=spec.id), *asked]

    opened = address.select(follow, None, [links.tabs, *links.asked.values()], **QUIET)
    opened.then(fn=None, js=_ANSWERED, api_visibility="private")

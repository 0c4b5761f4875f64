"""Renew what the manual's pages have from the code: ``python docs/tables.py``.

Pages hold it between two comments, so that they can be read in the repository as they are; a test
compares it with the code:

- ``<!-- table NAME -->`` .. ``<!-- end -->``: a table of one of the modules beside this one;
- ``<!-- file PATH -->`` .. ``<!-- end -->``: a file, its path that from the page.

The JSON Schema of configurations, `SCHEMA`, lies beside them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import cli_table
import config_table
import fit_tables
import noise_tables
import step_tables

from roman_dask_l2.config.schema import config_schema

DOCS = Path(__file__).resolve().parent
SCHEMA = DOCS / "config.schema.json"
BLOCK = re.compile(r"(<!-- (table|file) (\S+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml"}


def made() -> dict[str, str]:
    """Name -> MyST Markdown of every table."""
    return {
        **step_tables.tables(),
        **noise_tables.tables(),
        **fit_tables.tables(),
        "configuration_keys": config_table.table(),
        "campaign_keys": config_table.campaign_table(),
        "cli": cli_table.page(),
    }


def renewed(page: Path, tables: dict[str, str]) -> str:
    """The text of a page as it should be."""

    def block(found: re.Match[str]) -> str:
        begin, kind, name, end = found.groups()
        if kind == "table":
            text = tables[name]
        else:
            source = page.parent / name
            text = f"```{LANGUAGES[source.suffix]}\n{source.read_text().rstrip()}\n```"
        return f"{begin}\n{text.strip()}\n\n{end}"

    return BLOCK.sub(block, page.read_text())


def schema() -> str:
    """The text of `SCHEMA`."""
    return json.dumps(config_schema(), indent=2) + "\n"


def pages() -> list[Path]:
    """All pages of the manual."""
    return sorted([*DOCS.glob("*.md"), *DOCS.glob("howto/*.md")])


if __name__ == "__main__":
    every = made()
    for path in pages():
        path.write_text(renewed(path, every))
    SCHEMA.write_text(schema())

"""A small cache of CRDS: rules and reference files, made on the spot."""

from __future__ import annotations

from pathlib import Path

from crds.refactoring.checksum import update_checksum

CONTEXT = "roman_0001.pmap"
_ANY = (("ROMAN.META.INSTRUMENT.DETECTOR",), ("ROMAN.META.EXPOSURE.START_TIME",))
_ELEMENT = (
    ("ROMAN.META.INSTRUMENT.DETECTOR", "ROMAN.META.INSTRUMENT.OPTICAL_ELEMENT"),
    ("ROMAN.META.EXPOSURE.START_TIME",),
)
PARKEYS = {"flat": _ELEMENT, "distortion": _ELEMENT}


class CrdsCache:
    """A cache in which each type has one file, for detector WFI01 and element F158.

    Parameters
    ----------
    root : Path
    files : dict of str to Path
        Type -> file that is copied into the cache; None for N/A. In ``later`` those for exposures
        after 2100.
    """

    def __init__(self, root: Path, files: dict[str, Path | None]) -> None:
        self.root = root
        for folder in ("config/roman", "mappings/roman", "references/roman/wfi"):
            (root / folder).mkdir(parents=True)
        self.names = {}
        for kind, path in files.items():
            name = "N/A" if path is None else f"roman_wfi_{kind}_0001.asdf"
            if path is not None:
                (root / "references/roman/wfi" / name).write_bytes(path.read_bytes())
            self.names[kind] = name
            self.rules(kind, {"2020-01-01 00:00:00": name, "2100-01-01 00:00:00": f"late_{name}"})
        kinds = {kind: f"roman_wfi_{kind}_0001.rmap" for kind in files}
        self._mapping("roman_wfi_0001.imap", "INSTRUMENT", ("REFTYPE",), repr(kinds), "WFI")
        self._mapping(
            CONTEXT, "PIPELINE", ("ROMAN.META.INSTRUMENT.NAME",), "{'WFI': 'roman_wfi_0001.imap'}"
        )
        self.in_use(CONTEXT)

    def path(self, kind: str) -> Path:
        """The file of a type."""
        return self.root / "references/roman/wfi" / self.names[kind]

    def rules(self, kind: str, by_time: dict[str, str], detector: str = "WFI01") -> None:
        """Write the rules of a type: from when which file."""
        parkey = PARKEYS.get(kind, _ANY)
        match = (detector, "F158")[: len(parkey[0])]
        selector = f"Match({{\n    {match!r}: UseAfter({by_time!r}),\n}})"
        name = f"roman_wfi_{kind}_0001.rmap"
        self._mapping(name, "REFERENCE", parkey, selector, "WFI", kind)

    def in_use(self, context: str) -> None:
        """Write what the server last said."""
        info = {
            "observatory": "roman", "latest_context": context, "operational_context": context,
            "force_remote_mode": False, "bad_files_list": [], "last_synced": "", "status": "cache",
            "crds_version": {"str": "14.0.3"},
        }  # fmt: skip
        (self.root / "config/roman/server_config").write_text(repr(info))

    def _mapping(self, name, mapping, parkey, selector, instrument=None, kind=None) -> None:
        header = {
            "name": name, "mapping": mapping, "observatory": "ROMAN", "parkey": parkey,
            "description": "of a test", "derived_from": "nothing", "sha1sum": "0" * 40,
        }  # fmt: skip
        header |= {"instrument": instrument} if instrument else {}
        header |= {"filekind": kind.upper(), "classes": ("Match", "UseAfter")} if kind else {}
        lines = "".join(f"    {key!r}: {value!r},\n" for key, value in header.items())
        path = self.root / "mappings/roman" / name
        path.write_text(f"header = {{\n{lines}}}\n\nselector = {selector}\n")
        update_checksum(str(path))

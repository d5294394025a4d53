"""The block list: keyed hashes of names, one for all spellings; without its key nothing goes on."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from helpers import query

from music_pulse.blocklist import KEY_FILE, Blocklist, block, keyed_hash, read_blocklist, unblock
from music_pulse.database import connect
from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings


def test_all_spellings_are_one_and_an_empty_list_holds_nobody() -> None:
    blocklist = Blocklist(b"secret", [keyed_hash(b"secret", "Zéla")])
    assert [name in blocklist for name in (" ZÉLA\u2003", "ze\u0301la", "zela", "")] == [True, True, False, False]
    assert "zéla" not in Blocklist(b"another", blocklist.hashes)
    assert not Blocklist()
    Blocklist().refuse(["zéla"])
    with pytest.raises(InputError, match="--allow") as caught:
        blocklist.refuse([None, "bob", "zéla"])
    assert "zéla" not in str(caught.value).lower()


def test_the_database_holds_no_name_and_the_key_is_its_owners(warehouse: Settings, tmp_path: Path) -> None:
    settings = warehouse.model_copy(update={"home": tmp_path / "home"})
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        assert not read_blocklist(connection, settings)
        assert not (settings.home / KEY_FILE).exists()
        for name in ("Ann", "ANN ", "bob"):
            block(connection, settings, name)
        assert query(settings, "select count(*) from raw.blocked_users where user_hash ~ '^[0-9a-f]{64}$'") == [(2,)]
        assert stat.S_IMODE((settings.home / KEY_FILE).stat().st_mode) == 0o600
        assert "ann" in read_blocklist(connection, settings)

        assert unblock(connection, settings, "aNN")
        assert not unblock(connection, settings, "ann")
        assert "ann" not in read_blocklist(connection, settings)

        (settings.home / KEY_FILE).unlink()
        for use in (read_blocklist, lambda *given: block(*given, "eve")):
            with pytest.raises(ConfigurationError, match="PULSE_BLOCKLIST_KEY"):
                use(connection, settings)
        assert not (settings.home / KEY_FILE).exists()


def test_the_key_may_be_a_setting(warehouse: Settings, tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        **warehouse.model_dump(exclude={"home", "blocklist_key"}),
        home=tmp_path,
        blocklist_key="key",
    )
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        assert "ann" in block(connection, settings, "Ann")
        assert list(tmp_path.iterdir()) == []
        assert "key" not in repr(settings.blocklist_key)
        with pytest.raises(ConfigurationError):
            read_blocklist(connection, settings.model_copy(update={"blocklist_key": None}))

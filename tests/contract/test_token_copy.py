"""SoftHSM2's token.object: a copy of it survives what SoftHSM2's logins do to it, and is used for nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.softhsm_token_copy import BEFORE_LOGIN, COPY, DAMAGED, NAME, Identity, TokenCopy, restore
from kmsd.adapters.pkcs11.softhsm_token_object import Damaged, UnknownFormat, parse
from kmsd.backup.archive import Writer
from kmsd.backup.collect import FileChanged, add_token
from kmsd.domain.material import Algorithm
from kmsd.linux.byte_locks import flock
from kmsd.ports import PinRefused, TokenUnavailable
from tests.support.polling import until_async
from tests.support.softhsm_files import change_pin, token_object
from tests.support.tokens import PIN, SO_PIN, TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM
NEW_PIN = b"another-pin-5678"
SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut off": lambda whole: whole[:100],
    "a byte short": lambda whole: whole[:-1],
    "zeros": lambda whole: bytes(len(whole)),
}
"""What a kill or a power failure makes of a file."""


async def sealed_keys(place: TokenPlace, count: int = 3) -> dict[bytes, bytes]:
    """Fresh keys, and a text that each has sealed."""
    found = {}
    async with place.open() as token:
        for _ in range(count):
            key = secrets.token_bytes(16)
            await token.generate_key(key, XAES)
            found[key] = await token.encrypt(key, XAES, b"text", AAD)
    return found


async def open_all(token: Pkcs11Token, keys: dict[bytes, bytes]) -> None:
    """Every key is there, and is the one that it was."""
    for key, sealed in keys.items():
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"


def contents(folder: Path) -> dict[str, bytes]:
    """The token's own file, and whatever lies beside it under a similar name."""
    return {path.name: path.read_bytes() for path in folder.glob(f"{NAME}*")}


def softhsm2_util(*arguments: str) -> None:
    """Run SoftHSM2's own tool."""
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)


def spoil_pin(content: bytes) -> bytes:
    """A whole file whose user PIN nobody knows."""
    return content[:-1] + bytes([content[-1] ^ 1])


def is_waited_for(path: Path) -> bool:
    """True if somebody waits for a lock on the file: `1: -> OFDLCK ADVISORY READ -1 fd:00:1234 0 EOF` (proc(5))."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any(" -> " in line and f":{path.stat().st_ino} " in line for line in lines)


# --- The format ---------------------------------------------------------------------------------------


def test_each_cut_is_noticed(softhsm_place: TokenPlace) -> None:
    """However many bytes are left, also where SoftHSM2 reads the rest as a whole file; and zeros."""
    whole = token_object(softhsm_place).read_bytes()
    found = parse(whole)
    assert (found.label, found.has_user_pin) == ("kmsd-test", True)
    assert token_object(softhsm_place).parent.name.replace("-", "").endswith(found.serial)
    for left in range(len(whole)):
        with pytest.raises(Damaged):
            parse(whole[:left])
    for spoilt in (bytes(len(whole)), whole + b"\0", whole[:200] + bytes(len(whole) - 200)):
        with pytest.raises(Damaged):
            parse(spoilt)


def test_a_token_without_user_pin_is_whole(softhsm_place: TokenPlace) -> None:
    """As after another initialisation of the same token, which deletes the user's PIN."""
    before = parse(token_object(softhsm_place).read_bytes())
    tool = ["pkcs11-tool", "--module", str(softhsm_place.module), "--slot", str(before.slot)]
    subprocess.run([*tool, "--init-token", "--label", "again", "--so-pin", SO_PIN], check=True, capture_output=True)
    found = parse(token_object(softhsm_place).read_bytes())
    assert (found.label, found.serial, found.has_user_pin) == ("again", before.serial, False)


def test_what_a_later_release_may_write_is_not_damaged(softhsm_place: TokenPlace) -> None:
    """A kind of value that SoftHSM 2.6.1 does not know."""
    whole = token_object(softhsm_place).read_bytes()
    with pytest.raises(UnknownFormat):
        parse(whole + (0x80005349).to_bytes(8, "big") + (6).to_bytes(8, "big"))


# --- The copy -----------------------------------------------------------------------------------------


async def test_a_login_makes_a_copy_once(softhsm_place: TokenPlace) -> None:
    """Readable by its owner alone, not written again at each login, and no object of the token."""
    async with softhsm_place.open() as token:
        folder = token_object(softhsm_place).parent
        copy = folder / COPY
        made = copy.stat()
        assert made.st_mode & 0o777 == 0o600
        assert parse(copy.read_bytes()).is_same(parse(token_object(softhsm_place).read_bytes()))
        assert list(await token.list_objects()) == []
    async with softhsm_place.open():
        assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
        assert set(contents(folder)) == {NAME, COPY}


async def test_the_copy_follows_the_pin(softhsm_place: TokenPlace) -> None:
    """Another program changes the PIN: the next login renews the copy."""
    keys = await sealed_keys(softhsm_place)
    await change_pin(softhsm_place, NEW_PIN)
    own = token_object(softhsm_place)
    assert not parse(own.with_name(COPY).read_bytes()).is_same(parse(own.read_bytes()))
    async with softhsm_place.open(pin=NEW_PIN):
        assert parse(own.with_name(COPY).read_bytes()).is_same(parse(own.read_bytes()))
    own.write_bytes(b"")
    async with softhsm_place.open(pin=NEW_PIN) as token:
        await open_all(token, keys)


async def test_a_refused_login_leaves_the_copy(softhsm_place: TokenPlace) -> None:
    """What no PIN has opened yet is kept beside the copy, and does not replace it."""
    await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    good = own.with_name(COPY).read_bytes()
    spoilt = spoil_pin(own.read_bytes())
    own.write_bytes(spoilt)
    with pytest.raises(PinRefused):
        await Pkcs11Token.open(softhsm_place.settings())
    assert own.with_name(COPY).read_bytes() == good
    assert own.with_name(BEFORE_LOGIN).read_bytes() == spoilt


async def test_what_a_refused_login_has_left_is_forgotten(softhsm_place: TokenPlace) -> None:
    """The operator has put the right file back: what no PIN opens is not restored later."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    good = own.read_bytes()
    own.write_bytes(spoil_pin(good))
    with pytest.raises(PinRefused):
        await Pkcs11Token.open(softhsm_place.settings())
    own.write_bytes(good)
    TokenCopy("SoftHSM project", parse(good).serial, softhsm_place.objects).before_login()
    own.write_bytes(b"")
    async with softhsm_place.open() as token:
        await open_all(token, keys)


async def test_a_token_is_deleted_with_its_copy(softhsm_place: TokenPlace) -> None:
    """By SoftHSM2's own tool."""
    await sealed_keys(softhsm_place)
    folder = token_object(softhsm_place).parent
    softhsm2_util("--delete-token", "--token", softhsm_place.label)
    assert not folder.exists()


async def test_a_folder_that_is_not_named_is_left_alone(softhsm_place: TokenPlace) -> None:
    """Without `dir_sync` there is no copy, and the token works."""
    async with softhsm_place.open(token_dir_sync=None):
        assert set(contents(token_object(softhsm_place).parent)) == {NAME}


async def test_a_copy_that_cannot_be_written(softhsm_place: TokenPlace) -> None:
    """The login goes on, and the log says so."""
    own = token_object(softhsm_place)
    own.with_name(f"{COPY}.new").mkdir()
    with capture_logs() as logged:
        async with softhsm_place.open() as token:
            assert len(await token.random(8)) == 8
    assert [line["log_level"] for line in logged if line["event"] == "token_object_not_copied"] == ["warning"]
    assert not own.with_name(COPY).exists()


# --- Restoring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_damaged_file_is_restored(softhsm_place: TokenPlace, spoil: Callable[[bytes], bytes]) -> None:
    """Every key is there again. The log says so once, and the damaged file is kept."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    damaged = spoil(own.read_bytes())
    own.write_bytes(damaged)
    with capture_logs() as logged:
        async with softhsm_place.open() as token:
            await open_all(token, keys)
    (told,) = [line for line in logged if line["event"] == "token_object_restored"]
    assert told["log_level"] == "warning"
    assert told["folder"] == str(own.parent)
    assert own.with_name(told["damaged"]).read_bytes() == damaged
    assert {name.partition("-")[0] for name in contents(own.parent)} == {NAME, COPY, DAMAGED.partition("-")[0]}
    assert own.stat().st_mode & 0o777 == 0o600


async def test_by_serial_number_and_slot(softhsm_place: TokenPlace) -> None:
    """A token that the settings do not name by its label is restored, too; and one that they do not mean is not."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    known = parse(own.read_bytes())
    for wrong in ({"serial": "feedfeedfeedfeed"}, {"label": "other"}, {"slot": known.slot + 1}):
        own.write_bytes(b"")
        with pytest.raises(TokenUnavailable):
            await Pkcs11Token.open(softhsm_place.settings(start_deadline=0.1, **wrong))
        assert own.read_bytes() == b""
    async with softhsm_place.open(label=None, serial=known.serial, slot=known.slot) as token:
        await open_all(token, keys)


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_damaged_copy_is_not_used(softhsm_place: TokenPlace, spoil: Callable[[bytes], bytes]) -> None:
    """The token is away, and nothing is changed."""
    await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    copy = own.with_name(COPY)
    copy.write_bytes(spoil(copy.read_bytes()))
    own.write_bytes(b"")
    before = contents(own.parent)
    with pytest.raises(TokenUnavailable, match="no tokens"):
        await Pkcs11Token.open(softhsm_place.settings(start_deadline=0.1))
    assert contents(own.parent) == before


async def test_a_login_that_was_refused_is_not_in_use(softhsm_place: TokenPlace) -> None:
    """The module is restarted to find a token again, although somebody still holds the error of the refusal."""
    await sealed_keys(softhsm_place)
    with pytest.raises(PinRefused) as refused:
        await Pkcs11Token.open(softhsm_place.settings(pin=b"another-pin", start_deadline=0.1))
    own = token_object(softhsm_place)
    own.with_name(COPY).unlink()
    own.write_bytes(b"")
    with pytest.raises(TokenUnavailable, match="no tokens"):
        await Pkcs11Token.open(softhsm_place.settings(start_deadline=0.1))
    assert refused.value


async def test_a_file_that_cannot_be_restored(softhsm_place: TokenPlace) -> None:
    """The error says why, and the next attempt restores it."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    own.write_bytes(b"")
    obstacle = own.with_name(f"{NAME}.new")
    obstacle.mkdir()
    with pytest.raises(TokenUnavailable, match=r"token\.object is damaged, and cannot be restored"):
        restore(softhsm_place.objects, Identity(softhsm_place.label, None, None))
    obstacle.rmdir()
    async with softhsm_place.open() as token:
        await open_all(token, keys)


async def test_another_tokens_copy_is_not_used(softhsm_place: TokenPlace) -> None:
    """Whoever mixes up the folders' files does not lose one token for the other."""
    await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    stray = own.parent.with_name("01234567-89ab-cdef-0123-456789abcdef")
    stray.mkdir()
    (stray / NAME).write_bytes(b"")
    (stray / COPY).write_bytes(own.with_name(COPY).read_bytes())
    async with softhsm_place.open() as token:
        assert len(await token.random(8)) == 8
    assert contents(stray)[NAME] == b""


async def test_a_whole_file_is_never_replaced(softhsm_place: TokenPlace) -> None:
    """Even one that no PIN opens, and that has a good copy: what SoftHSM2 can read is the operator's to judge."""
    await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    own.write_bytes(spoil_pin(own.read_bytes()))
    with pytest.raises(PinRefused):
        await Pkcs11Token.open(softhsm_place.settings())
    assert own.read_bytes()[-8:] == spoil_pin(own.with_name(COPY).read_bytes())[-8:]
    assert not [name for name in contents(own.parent) if name.startswith(DAMAGED)]


async def test_another_programs_login_is_waited_for(softhsm_place: TokenPlace) -> None:
    """SoftHSM2 has truncated the file there, and holds its lock: what it writes then stays."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    whole = own.read_bytes()
    with own.open("r+b", buffering=0) as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, flock(fcntl.F_WRLCK, 0, 0))
        file.truncate(0)
        opening = asyncio.create_task(Pkcs11Token.open(softhsm_place.settings()))
        await until_async(lambda: is_waited_for(own))
        file.write(whole)
    token = await opening
    await open_all(token, keys)
    await token.close()
    assert set(contents(own.parent)) == {NAME, COPY}


async def test_a_token_beside_another(softhsm_place: TokenPlace) -> None:
    """Each login minds its own token's file: another token's logins have another start lock."""
    keys = await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    pins = ("--so-pin", SO_PIN, "--pin", PIN.decode())
    softhsm2_util("--init-token", "--free", "--label", "second", *pins)
    async with softhsm_place.open(label="second"):
        pass
    own.write_bytes(b"")
    async with softhsm_place.open(label="second"):
        assert own.read_bytes() == b""
    async with softhsm_place.open() as token:
        await open_all(token, keys)


# --- Backups ------------------------------------------------------------------------------------------


async def test_a_backup_holds_the_file_alone(softhsm_place: TokenPlace, tmp_path: Path) -> None:
    """Neither its copy nor a damaged one: a restored token makes another copy."""
    await sealed_keys(softhsm_place)
    own = token_object(softhsm_place)
    own.write_bytes(b"")
    async with softhsm_place.open():
        names = {path.name for path in own.parent.iterdir() if path.suffix != ".lock"}
    assert len(names & contents(own.parent).keys()) == 3
    with (tmp_path / "backup").open("w+b") as file:
        writer = Writer(file)
        add_token(writer, own.parent)
    copied = {part.name for part in writer.parts}
    assert copied == {f"token/{own.parent.name}/{name}" for name in names if name == NAME or not name.startswith(NAME)}


def test_no_backup_without_the_file(softhsm_place: TokenPlace, tmp_path: Path) -> None:
    """While it is damaged, there is an error instead of a backup that opens nothing."""
    own = token_object(softhsm_place)
    own.write_bytes(b"")
    with (tmp_path / "backup").open("w+b") as file, pytest.raises(FileChanged, match=r"token\.object is damaged"):
        add_token(Writer(file), own.parent)

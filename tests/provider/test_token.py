"""Where the API token comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from snaprotd.provider.token import TRIED_ANEW_AFTER, TokenError, TokenSource, first_accepted, token_source
from tests.support.no_files import KINDS, standing_at


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("vps_first\n")
    path.chmod(0o600)
    return path


def replaced(path: Path, text: str) -> None:
    """As editors and Kubernetes do it: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def credentials(tmp_path: Path) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "token").write_text("vps_credentials")
    return directory


def test_the_white_space_around_the_token_is_not_part_of_it(file: Path) -> None:
    file.write_text("  vps_first \r\n\n")
    assert token_source(file, {}).get() == "vps_first"


def test_the_places_are_tried_in_the_documented_order(file: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_text("vps_named")
    environ = {
        "VPS_API_TOKEN": "vps_plain",
        "CREDENTIALS_DIRECTORY": str(credentials(tmp_path)),
        "SNAPROTD_TOKEN_FILE": str(named),
    }
    found = [token_source(file, environ).get(), token_source(None, environ).get()]
    del environ["SNAPROTD_TOKEN_FILE"]
    found.append(token_source(None, environ).get())
    del environ["CREDENTIALS_DIRECTORY"]
    found.append(token_source(None, environ).get())
    assert found == ["vps_first", "vps_named", "vps_credentials", "vps_plain"]


def test_credentials_without_a_token_are_passed_over(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "VPS_API_TOKEN": "vps_plain"}
    assert token_source(None, environ).get() == "vps_plain"


def test_a_named_file_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"nowhere cannot be read: No such file"):
        token_source(tmp_path / "nowhere", {"VPS_API_TOKEN": "vps_plain"})


def test_without_any_place_the_message_names_them_all() -> None:
    with pytest.raises(TokenError) as caught:
        token_source(None, {"VPS_API_TOKEN": ""})
    places = ("api.token_file", "$SNAPROTD_TOKEN_FILE", "$CREDENTIALS_DIRECTORY/token", "$VPS_API_TOKEN")
    assert all(place in str(caught.value) for place in places)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"Bearer vps_secret", "more than one word"),
        (b"vps_secret\nvps_secret2", "more than one word"),
        ("vps_secr\u00e9t".encode(), "characters that no token has"),
        (b"vps_secret\x00", "characters that no token has"),
        (b"\xff\xfevps_secret", "characters that no token has"),
        ("vps_secret\u00a0x".encode(), "more than one word"),
        (b"vps_secret" * 500, "longer than 4096 bytes"),
    ],
)
def test_what_is_no_token_is_refused_without_being_quoted(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenError, match=complaint) as caught:
        token_source(path, {})
    assert "secr" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_directory_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="is a directory, not a file"):
        token_source(tmp_path, {})


def test_a_changed_file_is_read_again(file: Path) -> None:
    source = token_source(file, {})
    replaced(file, "vps_second")
    assert source.get() == "vps_second"


def test_a_change_of_equal_size_and_time_is_seen_by_the_file_itself(file: Path) -> None:
    source = token_source(file, {})
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    replaced(file, "vps_other\n")
    os.utime(file, ns=times)
    assert source.get() == "vps_other"


def test_a_swapped_symlink_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("vps_the_one")
    (tmp_path / "two").write_text("vps_the_two")
    link, new = tmp_path / "token", tmp_path / "new"
    link.symlink_to("one")
    source = token_source(link, {})
    new.symlink_to("two")
    new.replace(link)
    assert source.get() == "vps_the_two"


def test_refresh_tells_whether_the_token_is_another_one(file: Path) -> None:
    source = token_source(file, {})
    same = source.refresh()
    replaced(file, "vps_second")
    assert (same, source.refresh(), source.refresh()) == (False, True, False)


@pytest.mark.parametrize("content", ["", "half a token"])
def test_a_file_that_is_unusable_for_a_moment_leaves_the_token_in_force(file: Path, content: str) -> None:
    source = token_source(file, {})
    file.write_text(content)
    during = source.get()
    file.write_text("vps_second")
    assert (during, source.get()) == ("vps_first", "vps_second")


def test_a_file_that_is_away_for_a_moment_leaves_the_token_in_force(file: Path) -> None:
    source = token_source(file, {})
    file.unlink()
    during = source.get()
    file.write_text("vps_second")
    assert (during, source.get()) == ("vps_first", "vps_second")


def test_a_token_of_the_environment_never_changes() -> None:
    source = token_source(None, {"VPS_API_TOKEN": "vps_plain"})
    assert (source.refresh(), source.get(), source.warnings()) == (False, "vps_plain", [])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    with standing_at(path, kind), pytest.raises(TokenError, match=f"is {kind}, not a file"):
        token_source(path, {})


def test_a_pipe_in_place_of_the_file_leaves_the_token_in_force(file: Path) -> None:
    source = token_source(file, {})
    file.unlink()
    os.mkfifo(file)
    assert (source.get(), source.refresh(), source.get()) == ("vps_first", False, "vps_first")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o440, False), (0o644, True), (0o604, True)])
def test_a_file_that_everybody_can_read_is_warned_of(file: Path, mode: int, warned: bool) -> None:
    file.chmod(mode)
    warnings = token_source(file, {}).warnings()
    assert [f"chmod 600 {file}" in warning for warning in warnings] == ([True] if warned else [])


def test_a_file_that_everybody_can_write_is_refused(file: Path) -> None:
    file.chmod(0o602)
    with pytest.raises(TokenError, match="can be written by every user of this machine: run chmod 600"):
        token_source(file, {})


def test_a_file_that_becomes_writable_for_everybody_is_not_read_again(file: Path) -> None:
    source = token_source(file, {})
    file.write_text("vps_anothers")
    file.chmod(0o666)
    assert (source.get(), source.refresh(), source.get()) == ("vps_first", False, "vps_first")


@pytest.mark.parametrize(("owner", "warned"), [(0, False), (1000, False), (1001, True)])
def test_a_file_of_another_user_is_remarked_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, owner: int, warned: bool
) -> None:
    status = os.stat_result((0o100600, 1, 1, 1, owner, owner, 10, 0, 0, 0))
    source = token_source(file, {})
    monkeypatch.setattr(source._places[0], "status", status)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert [f"belongs to user {owner}" in warning for warning in source.warnings()] == ([True] if warned else [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'"vps_secret"', "is in quotes"),
        (b"'vps_secret'\n", "is in quotes"),
        (b"VPS_API_TOKEN=vps_secret", "a name before the token"),
        (b"export=vps_secret", "a name before the token"),
        (b"${VPS_API_TOKEN}", "a placeholder"),
        (b"$VPS_API_TOKEN", "a placeholder"),
        (b"{{ secret }}", "a placeholder"),
        (b"<your-token>", "a placeholder"),
        (b'{"token":"vps_secret"}', "JSON"),
        (b'{"token": "vps_secret"}', "JSON"),
        ("vps_secret\n".encode("utf-16"), "UTF-16"),
        ("vps_secret\n".encode("utf-16-be"), "UTF-16"),
        (b"vps_x12", "less than 8 letters"),
    ],
)
def test_a_slip_is_called_by_its_name_and_not_quoted(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(TokenError, match=complaint) as caught:
        token_source(tmp_path / "token", {})
    assert not any(word in str(caught.value) for word in ("secr", "VPS_API_TOKEN", "x12", "your"))


def test_a_token_may_end_as_base64_does(file: Path) -> None:
    file.write_text("c2VjcmV0X3Rva2Vu=")
    assert token_source(file, {}).get() == "c2VjcmV0X3Rva2Vu="


# -- of a pipe ----------------------------------------------------------------------------------------------------


def test_a_command_reads_its_token_once_from_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"vps_of_")
    os.write(writing, b"a_pipe\n")
    os.close(writing)
    source = token_source(Path(f"/dev/fd/{reading}"), {}, pipes=True)
    os.close(reading)
    assert [source.get(), source.refresh(), source.get()] == ["vps_of_a_pipe", False, "vps_of_a_pipe"]
    assert source.warnings() == []


@pytest.mark.parametrize(("said", "complaint"), [(b"vps_of_a_pipe", "did not end within"), (b"", "did not end")])
def test_a_pipe_that_does_not_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, said: bytes, complaint: str
) -> None:
    monkeypatch.setattr("snaprotd.provider.token.PIPE_PATIENCE", 0.02)
    reading, writing = os.pipe()
    os.write(writing, said)
    with pytest.raises(TokenError, match=complaint) as caught:
        token_source(None, {"SNAPROTD_TOKEN_FILE": f"/dev/fd/{reading}"}, pipes=True)
    os.close(reading)
    os.close(writing)
    assert "vps_of" not in str(caught.value)


def test_a_pipe_without_an_end_is_read_up_to_a_bound(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a" * 60_000)
    with pytest.raises(TokenError, match="longer than 4096 bytes"):
        token_source(Path(f"/dev/fd/{reading}"), {}, pipes=True)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("change", ["gone", "empty", "for everybody to write"])
def test_a_file_that_is_good_no_more_is_told_of_once(file: Path, change: str) -> None:
    """What was read before works: without a word the next start would be the first to find nothing."""
    source = token_source(file, {})
    with capture_logs() as log:
        for _ in range(2):
            before = file.read_text()
            if change == "gone":
                file.unlink()
            elif change == "empty":
                file.write_text("")
            else:
                file.chmod(0o666)
            assert [source.get() for _ in range(3)] == ["vps_first"] * 3
            file.write_text(before)
            file.chmod(0o600)
            assert source.get() == "vps_first"
    assert [line["event"] for line in log] == [
        "the API token cannot be read again: the one read before is still used"
    ] * 2


def test_the_token_is_in_no_repr(file: Path) -> None:
    source: TokenSource = token_source(file, {})
    shown = f"{source!r} {source} {source._places[0].token!r} {source._places[0].token}"
    assert "vps_first" not in shown
    assert str(file) in shown


def test_the_token_before_stays_a_secret(file: Path) -> None:
    source = token_source(file, {})
    replaced(file, "vps_second")
    source.get()
    assert source.secrets() == ("vps_second", "vps_first")


# -- of several places, for a start that is owed ----------------------------------------------------------------------


def kept_and_named(tmp_path: Path) -> tuple[Path, Path]:
    kept, named = tmp_path / "kept", tmp_path / "named"
    kept.write_text("vps_kept")
    named.write_text("vps_named")
    return kept, named


def test_the_first_token_that_is_not_refused_is_used(tmp_path: Path) -> None:
    source = first_accepted(kept_and_named(tmp_path), {"VPS_API_TOKEN": "vps_plain"})
    used = [source.get()]
    while source.refresh() and len(used) < 4:
        used.append(source.get())
    assert used == ["vps_kept", "vps_named", "vps_plain", "vps_kept"]


def test_the_first_place_has_a_turn_again_soon(tmp_path: Path) -> None:
    """It may have been refused by mistake, and what is accepted may be another account's."""
    source = first_accepted(kept_and_named(tmp_path), {})
    source.refresh()
    used = [source.get() for _ in range(TRIED_ANEW_AFTER + 1)]
    assert (used[0], used[-1]) == ("vps_named", "vps_kept")


def test_the_same_token_in_two_places_is_tried_once(tmp_path: Path) -> None:
    kept, named = kept_and_named(tmp_path)
    named.write_text("vps_kept")
    assert not first_accepted([kept, named], {}).refresh()


def test_a_place_that_holds_none_yet_is_passed_over_until_it_does(tmp_path: Path) -> None:
    kept, named = kept_and_named(tmp_path)
    kept.unlink()
    source = first_accepted([kept, named], {})
    before = source.get()
    kept.write_text("vps_kept")
    source.refresh()
    assert (before, source.get()) == ("vps_named", "vps_kept")


def test_where_no_place_holds_one_it_is_told_of_each(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"kept cannot be read.*VPS_API_TOKEN holds more than one word") as caught:
        first_accepted([tmp_path / "kept"], {"VPS_API_TOKEN": "Bearer vps_secret"})
    assert "secret" not in str(caught.value)
    with pytest.raises(TokenError, match="no place for one is known"):
        first_accepted([], {})

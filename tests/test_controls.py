"""What hosts declare of their devices, as forms; and playlists without the host's address."""

from __future__ import annotations

import pytest
from yarl import URL

from vpt.controls import MOST_ACTIONS, abilities_of, actions_of, elements_of
from vpt.playlists import PlaylistError, rewritten

FOLDER = URL("http://h:80/host/stream/c1/segments/")
LIST = FOLDER.join(URL("output.m3u8"))


def of(**action: object) -> dict[str, object]:
    (made,) = actions_of({"action_types": {"Remote": [action]}})
    return made


def test_an_action_with_values_needs_no_field() -> None:
    made = of(command="press_key", label="POWER", action_type="remote", params={"key": "POWER"})
    assert (made["label"], made["type"], made["kind"]) == ("POWER", "remote", "action")
    assert (made["params"], made["fields"]) == ({"key": "POWER"}, [])


def test_an_input_of_a_person_goes_to_the_parameter_that_the_host_names() -> None:
    made = of(
        command="click_element",
        params={"element_text": "", "wait_time": 500},
        requiresInput=True,
        inputLabel="Element Text",
        inputParam="element_text",
        inputPlaceholder="Home Tab",
    )
    (field,) = made["fields"]  # type: ignore[misc]
    assert made["params"] == {"wait_time": 500}
    assert (field["name"], field["label"], field["placeholder"]) == (  # type: ignore[index]
        *("element_text", "Element Text"),
        "Home Tab",
    )


@pytest.mark.parametrize(
    ("command", "name", "kind"),
    [("execute_bash_command", "command", "text"), ("execute_pyautogui_click", "", "json")],
)
def test_an_input_without_a_parameter_is_known_by_its_command_or_asked_for_whole(
    command: str, name: str, kind: str
) -> None:
    (field,) = of(command=command, params={}, requiresInput=True)["fields"]  # type: ignore[misc]
    assert (field["name"], field["kind"]) == (name, kind)  # type: ignore[index]


def test_a_verification_has_a_field_for_each_described_parameter() -> None:
    number = {"type": "number", "required": False, "default": 0.8, "min": 0.0, "max": 1.0}
    params = {
        "text": {"type": "string", "required": True, "default": "", "description": "Text"},
        "threshold": number,
        "area": {"type": "area", "required": False, "default": None},
        "once": {"type": "boolean", "default": True},
    }
    item = {"command": "waitForText", "verification_type": "text", "params": params}
    (made,) = actions_of({"verification_types": {"text": [item]}})
    kinds = {field["name"]: field["kind"] for field in made["fields"]}
    assert kinds == {"text": "text", "threshold": "number", "area": "json", "once": "flag"}
    threshold = made["fields"][1]
    assert (threshold["default"], threshold["min"], threshold["max"]) == (0.8, 0.0, 1.0)
    assert (made["kind"], made["type"], made["params"]) == ("verification", "text", {})


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"action_types": None, "verification_types": []},
        {"action_types": {"a": None, "b": [1, None, {}, {"command": 1}, {"command": ""}]}},
        {"action_types": {"a": [{"command": "x" * 501}]}},
    ],
)
def test_what_cannot_be_understood_is_left_out(schema: dict[str, object]) -> None:
    assert actions_of(schema) == []


def test_a_host_may_declare_odd_things_and_many() -> None:
    odd = {"command": "a", "label": 1, "params": {"x": {"type": []}, "y": {"type": "number"}}}
    made = actions_of({"action_types": {"A": [odd] * (MOST_ACTIONS + 1)}})
    assert len(made) == MOST_ACTIONS
    assert (made[0]["label"], made[0]["params"]) == ("a", {"x": {"type": []}})


def test_what_can_be_seen_follows_from_the_capabilities() -> None:
    phone = abilities_of("virtualpytest", ["av", "remote", "android_mobile"], ["press_key"])
    assert phone["picture"]
    assert phone["stream"]
    assert phone["tap"]
    assert not phone["power"]
    desk = abilities_of("virtualpytest", ["desktop", "bash"], ["execute_bash_command"])
    assert desk["shell"]
    assert not desk["picture"]
    assert not any(abilities_of("document", [], []).values())


def test_elements_are_bounded_and_understood() -> None:
    assert elements_of("no list") == []
    assert elements_of([None, 1]) == []
    (one,) = elements_of([{"id": 1, "bounds": {"left": 0, "top": "x"}, "text": 3}])
    assert one["bounds"] is None
    assert (one["id"], one["text"], one["clickable"]) == ("1", None, False)


# ---------------------------------------------------------------- playlists


def lines(text: str, url: URL = LIST) -> list[str]:
    return rewritten(b"#EXTM3U\n" + text.encode(), FOLDER, url).decode().splitlines()[1:]


def test_a_playlist_keeps_its_tags_and_names_files_only() -> None:
    text = '#EXTINF:1.0,\n  a.ts\n\n#EXT-X-MAP:URI="http://h:80/host/stream/c1/segments/i.mp4"\n'
    assert lines(text) == ["#EXTINF:1.0,", "a.ts", "", '#EXT-X-MAP:URI="i.mp4"']


def test_a_playlist_below_names_what_is_above_it() -> None:
    below = FOLDER.join(URL("low/a.m3u8"))
    assert lines("b.ts\nhttp://h/host/stream/c1/segments/c.ts\n", below) == [
        *("../low/b.ts", "../c.ts"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("http://other/a.ts", "https://h:80/host/stream/c1/segments/a.ts", "//other/a.ts"),
        *("../a.ts", "../../c2/segments/a.ts", "/a.ts", ".hidden", "a/b/c/d/e.ts", "%2e%2e/a.ts"),
        *("data:video/mp2t,x", "javascript:alert(1)", "a b.ts", "a\\b.ts", "http://[::/a.ts"),
    ],
)
def test_a_file_that_is_not_below_the_folder_spoils_the_playlist(name: str) -> None:
    for text in (f"#EXTINF:1,\n{name}\n", f'#EXT-X-KEY:METHOD=AES-128,URI="{name}"\n'):
        with pytest.raises(PlaylistError):
            lines(text)


def test_what_is_no_playlist_is_told() -> None:
    with pytest.raises(PlaylistError):
        rewritten(b"<html>", FOLDER, LIST)

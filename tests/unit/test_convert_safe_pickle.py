"""Plain data comes out of a pickle, code does not."""

from __future__ import annotations

import io
import pickle

import pytest

from data_tools.convert.safe_pickle import load_pickle
from unipixel.errors import DataError

PLAIN = [{"ref_id": 3, "split": "testA", "sentences": [{"sent": "left", "tokens": ["left"]}], "box": (1.5, None, True), "ids": {1, 2}}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([*PLAIN, b"\x00\xff counts"], protocol=protocol))
    assert load_pickle(path) == [*PLAIN, b"\x00\xff counts"]


def test_text_and_numbers_of_python_2(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"(dp0\nS'caf\\xe9'\np1\nV\\u00e9\np2\nsS'n'\nL5L\ns.")  # {'caf\xe9': u'\xe9', 'n': 5L}
    assert load_pickle(path) == {"café": "é", "n": 5}
    path.write_bytes(b"\x80\x02c__builtin__\nset\n]\x8a\x01\x05a\x85R.")  # set([5L])
    assert load_pickle(path) == {5}


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", (0, 2, 4))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, protocol):
    victim, path = tmp_path / "created", tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref_id": 1, "x": Touch(victim)}], protocol=protocol))
    with pytest.raises(DataError, match="wants to run .*open"):
        load_pickle(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())[0]["x"].close()  # the same bytes do harm elsewhere: the test above is not vacuous
    assert victim.exists()


@pytest.mark.parametrize("payload", (b"cos\nsystem\n(S'true'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.", b"c__builtin__\ngetattr\n.",
                                     b"cnumpy.core.multiarray\n_reconstruct\n.", b"ccollections\nOrderedDict\n)R.",
                                     b"c__builtin__\nset.__init__.__globals__\n."))
def test_every_other_name_is_refused(tmp_path, payload):
    (tmp_path / "x.p").write_bytes(payload)
    with pytest.raises(DataError, match="wants to run"):
        load_pickle(tmp_path / "x.p")


def test_persistent_ids_missing_and_damaged_files(tmp_path):
    out = io.BytesIO()
    pickler = pickle.Pickler(out)
    pickler.persistent_id = lambda value: "p" if value == 7 else None
    pickler.dump([7])
    (tmp_path / "a.p").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="persistent object"):
        load_pickle(tmp_path / "a.p")
    (tmp_path / "b.p").write_bytes(pickle.dumps(PLAIN)[:-5])
    with pytest.raises(DataError, match="not a readable pickle"):
        load_pickle(tmp_path / "b.p")
    with pytest.raises(DataError, match="no file"):
        load_pickle(tmp_path / "none.p")

"""The list of changes fits the code; `make mutations` proves that each is noticed, which takes minutes."""

from __future__ import annotations

import pytest

from mutations.mutate import ROOT, read_mutations, run_test, survivors


@pytest.mark.parametrize("mutation", read_mutations(), ids=lambda mutation: mutation.name)
def test_each_change_fits_its_file_and_names_tests_that_are_there(mutation):
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert mutation.tests
    for test in mutation.tests:
        file, *_, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_a_change_that_no_test_sees_is_told(tmp_path):
    (tmp_path / "thing.py").write_text("SIZE = 3\n", encoding="utf-8")
    test = tmp_path / "test_thing.py"
    test.write_text("import thing\ndef test_size(): assert thing.SIZE > 2\n", encoding="utf-8")
    seen, unseen = (
        type(read_mutations()[0])("size", "src/thing.py", "SIZE = 3", new, (str(test),))
        for new in ("SIZE = 2", "SIZE = 4")
    )
    assert run_test(str(test), tmp_path) == 0
    assert survivors(seen, tmp_path) == []
    assert survivors(unseen, tmp_path) == [str(test)]
    assert (tmp_path / "thing.py").read_text(encoding="utf-8") == "SIZE = 3\n"

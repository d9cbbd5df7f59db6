import errno
import os
import tempfile

import pytest

from workers.errors import PlanError, SettingsError, StorageError, StorageUnavailable
from workers.exit_codes import end, speaker


def ended(raised, **more):
    told = []

    def work():
        raise raised

    return end(work, told.append, **more), told


def test_what_the_work_says_is_the_exit_code():
    assert end(lambda: 3, print) == 3


def test_an_error_is_told_line_by_line_and_a_wrong_setting_has_another_code():
    assert ended(StorageError("it is full\nof sand")) == (1, ["it is full", "of sand"])
    assert ended(SettingsError("--steps: no")) == (2, ["--steps: no"])
    assert ended(PlanError("no file")) == (1, ["no file"])
    assert ended(PlanError("no file"), wrong=(SettingsError, PlanError))[0] == 2


def test_a_store_that_does_not_answer_is_no_fault_of_the_settings():
    assert ended(StorageUnavailable("away"), wrong=(StorageError,))[0] == 1


def test_what_went_wrong_may_be_told_in_another_way_than_the_rest():
    complaints = []
    code, told = ended(StorageError("full"), complain=complaints.append)
    assert (code, told, complaints) == (1, [], ["full"])
    code, told = ended(KeyboardInterrupt(), complain=complaints.append)
    assert (code, told, complaints) == (130, ["stopped"], ["full"])


def test_ctrl_c_is_told_and_has_the_code_that_shells_know():
    assert ended(KeyboardInterrupt(), stopped="all is kept") == (130, ["all is kept"])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_folder_and_the_way_out(code, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    code, (told,) = ended(OSError(code, os.strerror(code)))
    assert code == 1
    assert f"the disk of temporary files, '{tmp_path}', has no room left" in told
    assert "TMPDIR=FOLDER" in told
    _, (told,) = ended(OSError(errno.ENOSPC, "No space left on device", "/full/x"))
    assert told.startswith("'/full/x' has no room left (No space left on device)")


def test_where_no_folder_for_temporary_files_has_room_that_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    monkeypatch.setenv("TMPDIR", "/full")
    told = []
    assert end(lambda: len(tempfile.mkdtemp()), told.append) == 1
    assert "the disk of temporary files, '/full', has no room left" in told[0]


def test_another_error_of_the_system_is_a_crash():
    with pytest.raises(FileNotFoundError):
        ended(FileNotFoundError(errno.ENOENT, "No such file", "/x"))


def test_a_bug_is_a_crash():
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


def test_a_job_speaks_with_its_name_before_the_line(capsys):
    speaker("train")("step 1")
    assert capsys.readouterr() == ("", "train: step 1\n")

from workers.version import code_version


def test_the_code_has_a_version():
    assert code_version()[0].isdigit()

from quail_lightning.command_line.own_options import divided


def test_a_verb_s_own_options_are_told_from_those_of_fit() -> None:
    given = ["--config", "a.yaml", "--out", "DIR", "--trials=3", "-h", "--model.alpha", "2", "--outer=1"]
    given.append("--space")  # whose value is missing
    own, fit = divided(given, ("--out", "--trials", "--space"), ("-h",))
    assert own == ["--out", "DIR", "--trials=3", "-h", "--space"]
    assert fit == ["--config", "a.yaml", "--model.alpha", "2", "--outer=1"]

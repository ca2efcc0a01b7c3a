"""Which studies are run with which models: each image by itself, or several that make one study."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry.workflows.cohort.model_index import KnownModel
from voxmetry.workflows.cohort.multi_input import Image, image_of, join, pick
from voxmetry.workflows.cohort.records import Candidate, Fault, PlannedStudy
from voxmetry.workflows.cohort.rules import Rule, Rules, RuleSpec, fits, no_model


def assign(
    found: Sequence[Candidate], rules: Rules, known: dict[str, KnownModel], *, forgiven: frozenset[str], listed: bool
) -> list[PlannedStudy]:
    """Pair each study with each model that takes it; images that make one study together come as one.

    Parameters
    ----------
    found
        What there is.
    rules, known
        Which model takes what.
    forgiven
        Verdicts on a series that are no reason to refuse it, because that was asked for.
    listed
        Whether a manifest says what a study is: then no images are put together but those of one line.
    """
    usable = [one for one in found if one.fault is None or one.verdict in forgiven]
    single = [] if listed else [one for one in usable if not one.parts]
    together = {
        rule.model: join(single, known[rule.model].spec)
        for rule in rules.rules
        if len(known[rule.model].spec.inputs) > 1
    }
    refused = {id(one) for one in found} - {id(one) for one in usable}
    planned: list[PlannedStudy] = []
    for candidate in found:
        if id(candidate) in refused:
            planned.append(_refused(candidate, candidate.fault))
            continue
        mine = (Rule(model=candidate.model),) if candidate.model else rules.rules
        verdicts: dict[str, str] = {}
        taken: dict[str, Candidate] = {}
        for rule in mine:
            spec = known[rule.model].spec
            study, why = _study_for(candidate, spec, together.get(rule.model))
            why = why or fits(rule, spec, study)
            if why:
                verdicts.setdefault(spec.name, why)
            else:
                taken.setdefault(rule.model, study)
        if not taken:
            planned.append(_refused(candidate, no_model(list(verdicts.items()))))
        planned += [
            PlannedStudy(case=study.case, model=known[name].spec.name, state="waiting", candidate=study)
            for name, study in taken.items()
            if _leads(candidate, together.get(name))
        ]
    return planned


Together = tuple[dict[Image, Candidate], dict[Image, Image], dict[Image, str]]


def _study_for(candidate: Candidate, spec: RuleSpec, together: Together | None) -> tuple[Candidate, str]:
    """Return what a model takes for its study where it meets an image, or why it takes none."""
    if together is None or candidate.parts:
        return pick(candidate, spec), ""
    joined, leads, why_not = together
    image = image_of(candidate)
    if image in leads:
        return joined[leads[image]], ""
    return candidate, why_not.get(image, "")


def _leads(candidate: Candidate, together: Together | None) -> bool:
    """Whether a study is listed where its plan meets this image: of several images at the first one."""
    image = image_of(candidate)
    return together is None or bool(candidate.parts) or together[1].get(image, image) == image


def _refused(candidate: Candidate, fault: Fault | None) -> PlannedStudy:
    return PlannedStudy(case=candidate.case, model="", state="refused", fault=fault, candidate=candidate)

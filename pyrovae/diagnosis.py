"""A diagnosis: what `diagnostics` finds of a trained run, a section for each question, each number with its meaning."""

from collections.abc import Iterator

from jsonargparse import Namespace

from pyrovae.diagnosis_parts import Parts, counts
from pyrovae.one_vector import require_one_vector
from pyrovae.runs import Run
from pyrovae.section import Number, Section

__all__ = ["diagnose"]


def diagnose(run: Run, num_samples: int = 1000) -> Iterator[Section]:
    """The sections of a diagnosis, one after the other as they are computed; the last is the verdict in words.

    What takes long is computed of some test data (or training data, where that is said), as many as the sections tell,
    drawn at random under the run's seed. What is not for this model, or fails, is left out, and its section tells why.

    Args:
        run: a trained run, as `runs.load` gives it.
        num_samples: K, draws for each datum of importance sampling.

    Raises:
        ValueError: if the model is not of one vector z.
    """
    require_one_vector(run.vae, run.dataset.test, "a diagnosis")
    parts, numbers = Parts(run, num_samples), counts(len(run.dataset.test))
    yield _protocol(run)
    for title, (question, references, *names) in _PLAN.items():
        section = Section(title, question.format(**numbers), references)
        for name in names:
            try:
                getattr(parts, name)(section)
            except ValueError as error:
                section.sentences.append(f"Left out, {name.replace('_', ' ')}: {error}.")
            except Exception as error:  # one part that fails must not cost the others
                section.sentences.append(
                    f"Left out: {name.replace('_', ' ')} failed ({type(error).__name__}: {error})."
                )
        yield section


def _protocol(run: Run) -> Section:
    vae, options, protocol = run.vae, run.options, run.dataset.protocol
    parts = ", ".join(type(part).__name__ for part in (vae.prior, vae.likelihood, vae.encoder))
    numbers = {
        "model": Number(parts, "p(z), p(x | z), q(z | x)"),
        "objective": Number(_told(options.objective), "by which it was trained"),
        "optimizer": Number(_told(options.optimizer), ""),
        "epochs": Number(len(run.history), "of training"),
        "seed": Number(options.seed, "of all that is random"),
        **{k: Number(v if isinstance(v, int | str) else str(v), "") for k, v in protocol.to_dict().items()},
    }
    return Section("Protocol", "What was trained, and on which data is it judged?", numbers=numbers)


def _told(component: Namespace) -> str:
    """A component as its constructor is called, less what is off."""
    arguments = vars(component.get("init_args", Namespace()))
    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    told = (f"{name}={_told(value) if isinstance(value, Namespace) else value}" for name, value in given.items())
    return f"{component.class_path.rpartition('.')[2]}({', '.join(told)})"


# For each section its question, references, and parts.
_PLAN = {
    "Evidence": (
        "What is log p(x)? Of {annealed} test data, and of {simulated} data drawn from the model.",
        {
            "Burda et al. (2016)": "https://arxiv.org/abs/1509.00519",
            "Wu et al. (2017)": "https://arxiv.org/abs/1611.04273",
            "Grosse et al. (2015)": "https://arxiv.org/abs/1511.02543",
        },
        "importance",
        "annealed",
        "bidirectional",
    ),
    "The gap": (
        "Is the posterior's family to blame for log p(x) - L(x), or the encoder? Of up to {gaps} training and "
        "test data each; errors are those of the mean over data.",
        {"Cremer et al. (2018)": "https://arxiv.org/abs/1801.03558"},
        "gaps",
    ),
    "Reliability": (
        "Can q(z | x) be trusted, datum by datum? Of {some} test data, and of data drawn from the model.",
        {
            "Vehtari et al. (2024)": "https://arxiv.org/abs/1507.02646",
            "Talts et al. (2018)": "https://arxiv.org/abs/1804.06788",
        },
        "weights",
        "ranks",
    ),
    "Latent variables": (
        "What do they carry? Of {many} test data.",
        {
            "Hoffman and Johnson (2016)": "http://approximateinference.org/accepted/HoffmanJohnson2016.pdf",
            "Chen et al. (2018)": "https://arxiv.org/abs/1802.04942",
            "Lucas et al. (2019)": "https://arxiv.org/abs/1911.02469",
        },
        "information",
        "collapse",
        "beta",
    ),
    "The model": (
        "Are data that the model gives like the data? Of {some} test data and as many of the model's.",
        {
            "Gelman et al. (1996)": "https://www3.stat.sinica.edu.tw/statistica/oldpdf/A6n41.pdf",
            "Gretton et al. (2012)": "https://jmlr.org/papers/v13/gretton12a.html",
            "Heusel et al. (2017)": "https://arxiv.org/abs/1706.08500",
        },
        "prior_checks",
        "posterior_checks",
        "samples",
        "pixels",
    ),
    "Representation": (
        "What can be read off the latent means?",
        {
            "Alain and Bengio (2017)": "https://arxiv.org/abs/1610.01644",
            "Kumar et al. (2018)": "https://arxiv.org/abs/1711.00848",
        },
        "labels",
        "factors",
    ),
    "Posteriors": (
        "How far is q(z | x) from the true posterior? Of {pictures} test data.",
        {
            "Smith and Gelfand (1992)": "https://doi.org/10.1080/00031305.1992.10475856",
            "Neal (2011)": "https://arxiv.org/abs/1206.1901",
        },
        "posteriors",
    ),
    "Verdict": ("What is wrong, if anything, and what to try?", {}, "verdict"),
}

"""Which tests `make check` leaves out: files, fixtures and single tests, here in one list, or by `@pytest.mark.slow`."""

import sys

import pytest

# What takes longest, so that all that `make check` does takes less than a minute and a half on two cores.
SLOW = {
    "test_browser",  # a JupyterLab and a Chromium
    "test_balanced",
    "test_adapters",  # every method on two kinds of adapters
    "test_caches",
    "test_cluster",  # a Ray that is started and killed
    "test_dizo",
    "test_doubled",
    "test_evolve",
    "test_exercises",  # solutions that run models
    "test_families",
    "test_family_methods",
    "test_forward_gradient",
    "test_grzo",
    "test_helene",
    "test_hizoo",
    "test_hostile_files",
    "test_low_rank",
    "test_lozo",
    "test_memory",
    "test_model_folders",
    "test_quantised",  # every method over a quantised base
    "test_objectives",
    "test_own_data",
    "test_one_launch",  # an interpreter of GPU code
    "test_one_sided",
    "test_optimizers",  # every method in every precision
    "test_scoring_faults",
    "test_trainer",
    "test_finetune",
    "test_first_order",
    "test_folders",  # processes and disks
    "test_fuzz",
    "test_gpu_check",
    "test_guards",
    "test_interrupts",
    "test_kernels_cuda",  # an interpreter of GPU code
    "test_judgement",
    "test_kills",
    "test_l2l",
    "test_papers_tasks",
    "test_perturbed",
    "test_plain_scorer",
    "test_predictions_are_kept_beside_the_runs_and_drawn",
    "test_probe_of_a_run",
    "test_ranks",  # processes that wait for one another
    "test_reproduction",
    "test_gain_map",
    "test_signal",  # gradients of a model, one by one
    "test_step_kernels",  # the same interpreter
    "test_studies",
    "test_study_runs",
    "test_theory",  # Hessians
    "test_through_models",
    "test_tiny",
    "test_verify",
    "test_watch",
    "test_widgets",
    # fixtures: the embedded model, converted again; runs that train an adapter
    "converted",
    "finished_adapter",
    # single ones of files that are fast
    "test_a_race_is_run_and_gives_its_page",
    "test_a_forked_child_can_use_the_engine",
    "test_a_run_that_is_older_than_the_setting_goes_on",
    "test_another_process_makes_the_same_bits",
    "test_both_roundings_are_replayed_and_resumed_to_the_bit",
    "test_runs_at_given_rates_are_a_study",
    "test_small_steps_arrive_in_half_precision",
    "test_what_methods_keep_is_what_their_files_say",
    "test_what_once_failed",
    "test_published_finals_on_beale",
    "test_moments_summed_while_stepping_are_those_of_a_pass_of_their_own",
    "test_100_steps_are_those_of_the_probe_in_place",
    "test_10_steps_on_a_language_model",
    "test_adamezo_equals_the_dense_reference_in_float64",
    "test_both_editions_of_boolq_ask_the_same",
    "test_every_method_on_both_probes_and_replayed",
    "test_expected_step_is_the_gradient",
    "test_only_drawn_rows_are_judged",
    "test_published_path_lengths_come_out",
    "test_replay_gives_the_same_bits",
    "test_the_page_on_choices_is_made_of_records",
    "test_adamezo_equals_the_dense_reference_for_any_horizon",
    "test_silent_network_fails_within_five_seconds",
    "test_two_processes_may_compile_a_kernel_at_once",
}


def pytest_ignore_collect(collection_path, config):
    """Do not even import a slow file that -m leaves out."""
    return True if config.option.markexpr == "not slow" and collection_path.stem in SLOW else None


@pytest.hookimpl(tryfirst=True)  # before pytest picks by -m
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & {item.path.stem, item.originalname, *item.fixturenames}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_open_figures():
    """Close what a test drew, which pyplot would keep for the tests after it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")

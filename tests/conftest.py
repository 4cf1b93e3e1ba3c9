"""Which tests `make check` leaves out: files, fixtures and single tests, here in one list, or by `@pytest.mark.slow`."""

import pytest

# Each takes more than ten seconds of a core, or much of the machine's attention.
SLOW = {
    "test_browser",  # a JupyterLab and a Chromium
    "test_finetune",  # runs that are killed and go on
    "test_gpu_check",
    "test_kernels_cuda",  # an interpreter of GPU code
    "test_l2l",
    "test_plain_scorer",
    "test_step_kernels",  # the same interpreter
    "test_studies",
    "test_study_runs",
    "test_theory",  # Hessians
    "test_tiny",
    "test_widgets",
    # a fixture: the embedded model, converted again
    "converted",
    # single ones of files that are fast
    "test_a_forked_child_can_use_the_engine",
    "test_another_process_makes_the_same_bits",
    "test_expected_step_is_the_gradient",
    "test_two_processes_may_compile_a_kernel_at_once",
}


@pytest.hookimpl(tryfirst=True)  # before pytest picks by -m
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & {item.path.stem, item.originalname, *item.fixturenames}:
            item.add_marker(pytest.mark.slow)

"""The kinds of fault that pass in silence, and the tests that hold each in several variations: an index of the files
`test_silence_*.py`, which is tested itself. A kind without three cases, or a test that lost its kind, fails here."""
import io
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KINDS = dict(
    content='other_content_under_the_old_name experts_teachers_and_codes labels_belong_to a_folder_that_changed the_same_commands '
            'a_row_is_made_anew one_expert_then_two a_set_that_was_written_to large_folders '
            'images_that_changed held_and_streamed',
    content_not_recorded='an_old_checkpoint old_experts old_teachers old_images old_artefact published_artefacts old_results',
    functions='a_network_that_is_no_function what_passes_has_the_true_gradient randomness_on_some_batches '
              'a_batch_that_draws switched_on_later objectives_refuse_it_too a_branch_on_values',
    frozen='frozen_weights',
    labels='class_numbers_of_any_kind neither_classes_nor_probabilities probabilities_stay accuracy_of students_refuse_labels',
    pictures='16_bit_grey float_and_32_bit transparency alpha exif several_frames without_variation same_bits of_any_depth '
             'grey_on_one_side floats_that_networks_take',
    identity='an_own_folder classes_in_another_order other_classes loaded_as_the_card_says settings_of_a_known_set source_is_in '
             'under_another_norm',
    dead='died_raise no_numbers a_dead_network experts_that_die no_number_is_not_recorded one_class_are_counted',
    parts='of_known_sets_are_counted a_part_says_so',
    hidden='hidden_folders litter_beside endings_are_read other_files_says_which',
    one_label_path='any_map_style_dataset target_transform labels_that_change no_dataset_of_pairs no_pictures_are_refused',
    flags='a_flag_that_does_nothing a_flag_that_acts eval_refuses bad_pictures_are_left_out fewer_iterations',
    refusals='refused_before_the_first_is_trained ones_own_works an_architecture_is_needed switches_of_the_caller '
             'every_default named_for_what_it_is loaded_again each_side_of_a_split out_of_range home_in alphabet terminal_lacks',
    platforms='unix_has_not not_linux')


class Names:
    "A plugin that keeps the names of what pytest collects."
    def pytest_collection_finish(self, session): self.found = Counter(i.originalname for i in session.items)

@pytest.fixture(scope='module')
def found():
    "How many cases each test in the files of kinds has."
    names = Names()
    files = map(str, sorted(HERE.glob('test_silence_*.py')))
    args = '--collect-only -q -p no:cacheprovider -p no:randomly'
    with redirect_stdout(io.StringIO()): status = pytest.main([*args.split(), *files], [names])
    assert status == 0
    return names.found

@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_is_varied(kind, found):
    "Every word of a kind is part of a test's name, and together they have three cases or more."
    tests = {w: [n for n in found if w in n] for w in KINDS[kind].split()}
    assert [w for w, hit in tests.items() if not hit] == [], 'no test has these words in its name'
    assert sum(found[n] for n in {n for hit in tests.values() for n in hit}) >= 3

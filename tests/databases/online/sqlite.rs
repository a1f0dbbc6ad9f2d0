//! SQLite as an online store.

use super::{conformance::conformance, home::Home};

/// Times are whole seconds in Feast's layout.
async fn home() -> Home {
    Home::new("type: sqlite\npath: data/online.db").with_precision(1_000_000)
}

conformance!(
    home;
    values_of_every_type_come_back,
    nulls_unknown_entities_and_unknown_features,
    one_read_of_several_groups_and_views,
    a_view_that_was_never_prepared_has_no_rows,
    the_newest_of_a_key_that_comes_twice_counts,
    rows_never_go_back_in_event_time,
    views_are_prepared_and_dropped_as_often_as_wanted,
    five_thousand_keys_in_one_request,
    the_newest_of_many_writers_stays,
    no_value_turns_up_elsewhere,
    odd_names,
);

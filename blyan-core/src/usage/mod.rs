//! Which experts work, how long they take and which work together.

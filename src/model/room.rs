//! Who is in a room, and which of their tracks a task wants.

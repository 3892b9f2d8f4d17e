//! The reduced state of the appliance.

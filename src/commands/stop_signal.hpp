// Signals that ask a run to stop early: SIGTERM and SIGUSR1.
#pragma once

namespace apb {

/// From here on the two signals no longer end this process, but are remembered.
void remember_stop_signals();

/// Whether one has arrived at this rank; once true it stays true.
bool stop_requested();

}  // namespace apb

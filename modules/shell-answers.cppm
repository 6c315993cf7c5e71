/// Inside shoal.shell: what the commands say.
module;

#include <tl/expected.hpp>

module shoal.shell:answers;

import shoal.peer;
import shoal.report;

namespace shoal {

void print_change(Report& report, const ListChange& changed);
void print_fetched(Report& report, const Fetched& fetched);
void print_choice(Report& report, const Choice& choice);
void print_peer(Report& report, const PeerView& view);
void print_status(Report& report, const PeerStatus& status);

}  // namespace shoal

/* SPDX-License-Identifier: MIT */
/*
 * auto_balloon.h - how much memory a guest should keep, from what it says of itself and from how
 * the host is doing.
 *
 * Concepts
 *  - short guest: less than a tenth of what it has is available to it. It is given more, whatever
 *    the host's state: a guest that swaps or kills costs more than it saves.
 *  - tight host: its tasks wait for memory (pressure stall information, "some", 10 s average)
 *    for AUTO_BALLOON_TIGHT or more, or less than a twentieth of its memory is available. It
 *    stays tight until it is easy: below AUTO_BALLOON_EASY, and with more than three twentieths
 *    available. While it is tight the guest gives memory up, a step at a time, as long as a
 *    fifth of what it keeps stays available to it.
 *  - easy host: after AUTO_BALLOON_CALM looks in a row at which it was easy the guest gets back
 *    a step of what it had given up.
 *  - step: a sixteenth of the range from min to max, 16 MiB at least. No other is taken before
 *    the guest has done as it was asked, or has not moved for AUTO_BALLOON_CALM looks; but a
 *    short guest does not wait.
 *
 * Threads: as the caller has it; nothing here is shared.
 */
#ifndef VMM_AUTO_BALLOON_H
#define VMM_AUTO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#define AUTO_BALLOON_SECONDS 5u  /* between two looks */
#define AUTO_BALLOON_TIGHT 1000u /* hundredths of a per cent */
#define AUTO_BALLOON_EASY 100u
#define AUTO_BALLOON_CALM 6u

struct auto_balloon_config {
	bool on;
	uint64_t min; /* bytes the guest keeps at least; 0: as few as it may */
	uint64_t max; /* at most; 0: all */
};

/* One look at guest and host; all in bytes. */
struct auto_balloon_view {
	uint64_t keep; /* what the guest was asked to keep */
	uint64_t has;  /* what it has just now */
	bool has_stats;
	uint64_t available;         /* of `has`, as it says; with has_stats */
	unsigned int host_pressure; /* these three: see host_memory.h */
	uint64_t host_total;
	uint64_t host_available;
};

enum auto_balloon_reason {
	AUTO_BALLOON_STAYS,
	AUTO_BALLOON_GUEST_SHORT,
	AUTO_BALLOON_HOST_TIGHT,
	AUTO_BALLOON_HOST_EASY,
};

struct auto_balloon {
	struct auto_balloon_config config; /* min and max are filled in */
	bool tight;
	unsigned int nr_calm;
	unsigned int nr_still; /* looks at which the guest had as much as the time before */
	uint64_t last_has;
	enum auto_balloon_reason reason; /* of the last change */
	uint64_t nr_changes;
};

/* `floor` and `ram` stand in for a min and a max that were not given. */
void auto_balloon_init(struct auto_balloon *automatic, const struct auto_balloon_config *config,
		       uint64_t floor, uint64_t ram);

/* What the guest should keep from now on; view->keep if nothing changes. */
uint64_t auto_balloon_decide(struct auto_balloon *automatic,
			     const struct auto_balloon_view *view);

/* "guest-short", "host-tight", "host-easy", "stays". */
const char *auto_balloon_reason_name(enum auto_balloon_reason reason);

#endif /* VMM_AUTO_BALLOON_H */

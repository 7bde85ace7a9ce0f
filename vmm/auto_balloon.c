/* SPDX-License-Identifier: MIT */
#include "vmm/auto_balloon.h"

#include "base/range.h"

#define MIN_STEP (16ull << 20)
#define STEPS 16u

void auto_balloon_init(struct auto_balloon *automatic, const struct auto_balloon_config *config,
		       uint64_t floor, uint64_t ram)
{
	*automatic = (struct auto_balloon){ .config = *config };
	if (automatic->config.min == 0)
		automatic->config.min = floor;
	if (automatic->config.max == 0)
		automatic->config.max = ram;
}

static uint64_t step_of(const struct auto_balloon *automatic)
{
	uint64_t step = (automatic->config.max - automatic->config.min) / STEPS;

	return step > MIN_STEP ? step : MIN_STEP;
}

static bool is_tight(const struct auto_balloon_view *view)
{
	return view->host_pressure >= AUTO_BALLOON_TIGHT ||
	       (view->host_total && view->host_available < view->host_total / 20);
}

static bool is_easy(const struct auto_balloon_view *view)
{
	return view->host_pressure < AUTO_BALLOON_EASY &&
	       (!view->host_total || view->host_available > view->host_total / 20 * 3);
}

static void judge_host(struct auto_balloon *automatic, const struct auto_balloon_view *view)
{
	bool easy = is_easy(view);

	if (is_tight(view))
		automatic->tight = true;
	else if (easy)
		automatic->tight = false;
	automatic->nr_calm = easy ? automatic->nr_calm + 1 : 0;
}

/* More, up to max. */
static uint64_t raised(const struct auto_balloon *automatic, uint64_t keep)
{
	if (keep >= automatic->config.max)
		return keep;
	return min(keep + step_of(automatic), automatic->config.max);
}

/* Less, but so that a fifth of it stays available, and down to min. */
static uint64_t lowered(const struct auto_balloon *automatic,
			const struct auto_balloon_view *view)
{
	uint64_t used = view->has - min(view->available, view->has);
	uint64_t least = used / 4 * 5;
	uint64_t keep = view->keep - min(step_of(automatic), view->keep);

	if (least < automatic->config.min)
		least = automatic->config.min;
	if (keep < least)
		keep = least;
	return min(keep, view->keep);
}

static uint64_t change(struct auto_balloon *automatic, enum auto_balloon_reason reason,
		       uint64_t from, uint64_t to)
{
	if (to == from)
		return from;
	automatic->reason = reason;
	automatic->nr_changes++;
	automatic->nr_calm = 0;
	automatic->nr_still = 0; /* it rested at what it was asked before */
	return to;
}

uint64_t auto_balloon_decide(struct auto_balloon *automatic,
			     const struct auto_balloon_view *view)
{
	uint64_t keep = view->keep;

	judge_host(automatic, view);
	if (view->has_stats && view->available < view->has / 10)
		return change(automatic, AUTO_BALLOON_GUEST_SHORT, keep,
			      raised(automatic, keep));
	/* On its way, as long as it moves. One that does not come closer has arrived, for us. */
	automatic->nr_still = view->has == automatic->last_has ? automatic->nr_still + 1 : 0;
	automatic->last_has = view->has;
	if (view->has != keep && automatic->nr_still < AUTO_BALLOON_CALM)
		return keep;
	/* Of a guest that says nothing nobody knows what it can do without. */
	if (automatic->tight)
		return view->has_stats ? change(automatic, AUTO_BALLOON_HOST_TIGHT, keep,
						lowered(automatic, view))
				       : keep;
	if (automatic->nr_calm >= AUTO_BALLOON_CALM)
		return change(automatic, AUTO_BALLOON_HOST_EASY, keep, raised(automatic, keep));
	return keep;
}

const char *auto_balloon_reason_name(enum auto_balloon_reason reason)
{
	static const char *const names[] = {
		[AUTO_BALLOON_STAYS] = "stays",
		[AUTO_BALLOON_GUEST_SHORT] = "guest-short",
		[AUTO_BALLOON_HOST_TIGHT] = "host-tight",
		[AUTO_BALLOON_HOST_EASY] = "host-easy",
	};

	return names[reason];
}

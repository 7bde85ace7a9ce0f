/* SPDX-License-Identifier: MIT */
/*
 * Reclaim against a model of it: a bool a page, a bool a granule, a list of who pins. Random
 * steps are done to both. The model foresees every discard and every populate; those are
 * caught on their way to memory/ram (the linker's --wrap), held against what was foreseen,
 * and made to fail now and then.
 *
 * BALLAST_SEED repeats a run, BALLAST_STEPS makes it longer or shorter.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/mman.h>

#include "base/sanitizer.h"

#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define NR_STEPS 1000000u
#define NR_SANITIZED_STEPS 200000u
#define NR_REGIONS 2u
#define REGION_GRANULES 32u
#define NR_GRANULES (NR_REGIONS * REGION_GRANULES)
#define MAX_GRANULE_PAGES 8u
#define MAX_PAGES (NR_GRANULES * MAX_GRANULE_PAGES)
#define NR_INHIBITORS 10u
#define FIRST_GPA 0x100000ull
#define NOWHERE MAX_PAGES

/* Granules [first, end), all of one region. */
struct run {
	unsigned int first;
	unsigned int end;
};

enum kind { NOTHING, HELD, REPORTED, POPULATED, RESET };

static struct {
	/* What the world is. */
	unsigned int granule_pages;
	unsigned int nr_pages;
	bool unsafe;
	/* What reclaim should know. */
	bool plugged[NR_REGIONS];
	bool may_not_tell;
	bool held[MAX_PAGES];
	bool reclaimed[NR_GRANULES];
	bool unsure[NR_REGIONS]; /* what is held may be missing, though it is not reclaimed */
	bool waits[NR_REGIONS];  /* each is smaller than a huge page, of which it is all */
	struct inhibitor *raised[NR_INHIBITORS]; /* oldest first */
	unsigned int nr_raised;
	struct reclaim_counts policies[RECLAIM_NR_POLICIES];
	struct reclaim_counts reports;
	/* What the first bytes of each page should be; 0 where a discard left it. */
	uint64_t contents[MAX_PAGES];
	/* What reclaim should now ask memory/ram for, in this order. */
	enum kind kind;
	struct run foreseen[2 * NR_GRANULES];
	unsigned int nr_foreseen;
	unsigned int nr_reclaimed; /* so many of them, for a reset, are reclaimed */
	unsigned int nr_seen;
	int error;                  /* of the last of them, or 0 */
	unsigned int failed_region; /* where it was; NR_REGIONS: none failed */
} model;

static struct ram ram;
static struct memory_map map;
static struct memory_region regions[NR_REGIONS];
static struct reclaim reclaim;
static struct inhibitor inhibitors[NR_INHIBITORS];

static uint64_t seed;
static uint64_t nr_steps;
static uint64_t step;
static const char *doing;
static unsigned int fail_one_in; /* of the calls of memory/ram; 0: none fails */

static void expect(bool ok, const char *what)
{
	if (!ok)
		ck_abort_msg("seed %" PRIu64 ", step %" PRIu64 ", %s: %s", seed, step, doing,
			     what);
}

static void expect_equal(uint64_t got, uint64_t wanted, const char *what)
{
	if (got != wanted)
		ck_abort_msg("seed %" PRIu64 ", step %" PRIu64 ", %s: %s is %" PRIu64
			     ", not %" PRIu64,
			     seed, step, doing, what, got, wanted);
}

/* Marsaglia's xorshift. */
static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static unsigned int below(unsigned int n)
{
	return (unsigned int)((next_random() >> 16) % n);
}

static bool one_in(unsigned int n)
{
	return n && below(n) == 0;
}

/* Pages are numbered region by region. Region 0 has the upper half of the block. */

static unsigned int region_pages(void)
{
	return REGION_GRANULES * model.granule_pages;
}

static uint64_t offset_of(unsigned int page)
{
	return (page + region_pages()) % model.nr_pages * PAGE;
}

/* A hole of two granules lies between the regions. */
static gpa_t region_gpa(unsigned int region)
{
	return FIRST_GPA + region * (REGION_GRANULES + 2) * model.granule_pages * PAGE;
}

static gpa_t gpa_of(unsigned int page)
{
	return region_gpa(page / region_pages()) + page % region_pages() * PAGE;
}

/* The page there, or NOWHERE. */
static unsigned int page_at(gpa_t gpa)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		gpa_t start = region_gpa(i);
		if (model.plugged[i] && gpa >= start && gpa < start + region_pages() * PAGE)
			return i * region_pages() + (unsigned int)((gpa - start) / PAGE);
	}
	return NOWHERE;
}

/* Spread over the cache's sets, which the same place in every page would not be. */
static volatile uint64_t *bytes_of(unsigned int page)
{
	return (volatile uint64_t *)(void *)((char *)ram.host + offset_of(page) +
					     page % 64 * 64);
}

static bool is_complete(unsigned int granule)
{
	const bool *held = &model.held[granule * model.granule_pages];

	return !memchr(held, false, model.granule_pages);
}

/* With nothing held nothing is missing. */
static void settle(unsigned int region)
{
	if (!memchr(&model.held[region * region_pages()], true, region_pages()))
		model.unsure[region] = false;
}

static enum reclaim_policy policy_now(void)
{
	if (model.nr_raised == 0)
		return RECLAIM_DIRECT;
	return model.unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT;
}

/* What is foreseen, and what comes. */

static void foresee(unsigned int granule)
{
	bool joins = model.kind == HELD || model.kind == REPORTED;

	if (joins && model.nr_foreseen && granule % REGION_GRANULES &&
	    model.foreseen[model.nr_foreseen - 1].end == granule)
		model.foreseen[model.nr_foreseen - 1].end++;
	else
		model.foreseen[model.nr_foreseen++] = (struct run){ granule, granule + 1 };
}

static void begin(const char *what, enum kind kind)
{
	doing = what;
	model.kind = kind;
	model.nr_foreseen = 0;
	model.nr_seen = 0;
	model.error = 0;
	model.failed_region = NR_REGIONS;
}

/* A failure to populate stops what is going on; any other does not. */
static void end(void)
{
	if (model.failed_region == NR_REGIONS)
		expect_equal(model.nr_seen, model.nr_foreseen, "the number of calls");
}

static struct run caught(enum kind kind, uint64_t offset, uint64_t size)
{
	uint64_t granule_size = model.granule_pages * PAGE;

	expect(kind == model.kind, "nothing of the kind was due");
	expect(model.nr_seen < model.nr_foreseen, "one call too many");
	struct run run = model.foreseen[model.nr_seen++];
	expect_equal(offset, offset_of(run.first * model.granule_pages), "the call's offset");
	expect_equal(size, (run.end - run.first) * granule_size, "the call's size");
	return run;
}

static struct reclaim_counts *counts_now(void)
{
	return model.kind == REPORTED ? &model.reports : &model.policies[policy_now()];
}

static void expect_discardable(struct run run)
{
	expect(model.nr_raised == 0 || (model.unsafe && model.kind == HELD),
	       "a discard under a pin");
	for (unsigned int i = run.first; i < run.end && model.kind == HELD; i++)
		expect(is_complete(i), "a discard of what is not held");
}

static int random_error(void)
{
	static const int errors[] = { -EINVAL, -ENOMEM, -EPERM, -EAGAIN };

	return errors[below(nitems(errors))];
}

int __real_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __real_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size);

/* One that fails may have done its work all the same, as madvise may have in part. */
int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size)
{
	struct run run = caught(model.kind == REPORTED ? REPORTED : HELD, offset, size);
	struct reclaim_counts *counts = counts_now();
	bool fails = one_in(fail_one_in);

	expect_discardable(run);
	if (fails) {
		model.error = random_error();
		counts->failures++;
		if (one_in(2))
			return model.error;
	}
	expect(__real_ram_discard(block, offset, size) == 0, "it cannot be discarded");
	for (unsigned int i = run.first * model.granule_pages;
	     i < run.end * model.granule_pages; i++)
		model.contents[i] = 0;
	if (fails)
		return model.error;
	counts->calls++;
	counts->bytes += size;
	for (unsigned int i = run.first; i < run.end; i++) {
		if (model.kind == HELD && policy_now() == RECLAIM_DIRECT)
			model.reclaimed[i] = true;
	}
	return 0;
}

int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size)
{
	struct run run = caught(model.kind == RESET ? RESET : POPULATED, offset, size);

	expect(model.failed_region == NR_REGIONS, "it goes on after a failure");
	if (one_in(fail_one_in)) {
		model.error = random_error();
		model.failed_region = run.first / REGION_GRANULES;
		return model.error;
	}
	expect(__real_ram_populate(block, offset, size) == 0, "it cannot be populated");
	model.reclaimed[run.first] = false;
	if (model.kind == RESET && model.nr_seen > model.nr_reclaimed) {
		memset(&model.held[run.first * model.granule_pages], 0, model.granule_pages);
		settle(run.first / REGION_GRANULES);
	}
	return 0;
}

/* What must hold between any two steps. */

static void expect_counts(const struct reclaim_counts *got, const struct reclaim_counts *wanted)
{
	expect_equal(got->taken, wanted->taken, "taken");
	expect_equal(got->calls, wanted->calls, "calls");
	expect_equal(got->bytes, wanted->bytes, "bytes");
	expect_equal(got->failures, wanted->failures, "failures");
}

static void expect_owners(const struct reclaim_figures *figures)
{
	unsigned int named =
		model.nr_raised < RECLAIM_MAX_OWNERS ? model.nr_raised : RECLAIM_MAX_OWNERS;

	expect_equal(figures->nr_inhibitors, model.nr_raised, "the number of inhibitors");
	expect_equal(figures->nr_owners, named, "the number of owners");
	for (unsigned int i = 0; i < named; i++)
		expect(strcmp(figures->owners[i], model.raised[i]->owner) == 0, "an owner");
}

/* The model's sums are reclaim's figures; and the model's own state is a sane one. */
static void expect_figures(void)
{
	struct reclaim_figures figures;
	uint64_t nr_held = 0;
	uint64_t nr_complete = 0;
	uint64_t nr_reclaimed = 0;

	for (unsigned int i = 0; i < NR_GRANULES; i++) {
		const bool *held = &model.held[i * model.granule_pages];
		bool complete = is_complete(i);
		for (unsigned int k = 0; k < model.granule_pages; k++)
			nr_held += held[k];
		nr_complete += complete;
		nr_reclaimed += model.reclaimed[i];
		expect(complete || !model.reclaimed[i], "what is not held is reclaimed");
	}
	uint64_t granule_size = model.granule_pages * PAGE;
	reclaim_figures(&reclaim, &figures);
	expect_equal(figures.policy, policy_now(), "the policy");
	expect_equal(figures.held, nr_held * PAGE, "held");
	expect_equal(figures.reclaimed, nr_reclaimed * granule_size, "reclaimed");
	expect_equal(figures.held_back, figures.held - figures.reclaimed, "held back");
	expect_equal(figures.incomplete, figures.held - nr_complete * granule_size,
		     "incomplete");
	expect(model.nr_raised == 0 || figures.reclaimed == 0, "reclaimed under a pin");
	expect_owners(&figures);
	for (unsigned int i = 0; i < RECLAIM_NR_POLICIES; i++)
		expect_counts(&figures.policies[i], &model.policies[i]);
	expect_counts(&figures.reports, &model.reports);
}

/* No page has changed but by a discard that was foreseen. Where one was, nobody looks: a look
 * would make the page present. */
static void expect_contents(void)
{
	for (unsigned int i = 0; i < model.nr_pages; i++) {
		if (model.contents[i])
			expect_equal(*bytes_of(i), model.contents[i], "a page's contents");
	}
}

/* What is reclaimed, and was not touched since, the host really has. */
static void expect_gone(void)
{
	static unsigned char present[MAX_PAGES];

	expect(mincore(ram.host, ram.size, present) == 0, "mincore");
	for (unsigned int i = 0; i < model.nr_pages; i++) {
		if (model.reclaimed[i / model.granule_pages] && !model.contents[i])
			expect(!(present[offset_of(i) / PAGE] & 1), "reclaimed, yet present");
	}
}

/* A processor or a device writes; first it looks whether all is as it was. */
static void touch(unsigned int page)
{
	volatile uint64_t *bytes = bytes_of(page);

	expect_equal(*bytes, model.contents[page], "a touched page's contents");
	model.contents[page] = next_random() | 1;
	*bytes = model.contents[page];
}

/* The steps. */

static void check_range(gpa_t gpa, unsigned int nr, bool *ret_all_is_ram)
{
	*ret_all_is_ram = true;
	for (unsigned int i = 0; i < nr; i++)
		*ret_all_is_ram &= page_at(gpa + i * PAGE) != NOWHERE;
}

/* All of a region's that is due. */
static void foresee_region(unsigned int region)
{
	for (unsigned int i = region * REGION_GRANULES; i < (region + 1) * REGION_GRANULES;
	     i++) {
		if (is_complete(i) && !model.reclaimed[i])
			foresee(i);
	}
}

/* Nobody pins: a region of which all is held now is discarded, others wait. */
static void take_directly(const bool *named)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		if (!memchr(named + i * region_pages(), true, region_pages()))
			continue;
		if (memchr(&model.held[i * region_pages()], false, region_pages()))
			model.waits[i] = true;
		else
			foresee_region(i);
	}
}

static void tick(void)
{
	begin("tick", HELD);
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		if (model.waits[i] && policy_now() == RECLAIM_DIRECT && !model.may_not_tell)
			foresee_region(i);
		model.waits[i] = false;
	}
	expect(!reclaim_tick(&reclaim), "a granule rests");
	end();
}

static void take(gpa_t gpa, unsigned int nr)
{
	bool named[MAX_PAGES] = { false };
	bool all_is_ram;

	begin("take", HELD);
	check_range(gpa, nr, &all_is_ram);
	for (unsigned int i = 0; i < nr; i++) {
		unsigned int page = page_at(gpa + i * PAGE);
		if (page == NOWHERE)
			continue;
		named[page] = true;
		if (!model.held[page])
			model.policies[policy_now()].taken += PAGE;
		model.held[page] = true;
	}
	bool directly = policy_now() == RECLAIM_DIRECT && !model.may_not_tell;
	if (directly)
		take_directly(named);
	for (unsigned int i = 0;
	     i < NR_GRANULES && policy_now() != RECLAIM_INHIBIT && !directly; i++) {
		const bool *pages = &named[i * model.granule_pages];
		bool any = memchr(pages, true, model.granule_pages);
		/* From a driver that may not tell no piece of several pages is discarded. */
		if (model.may_not_tell && model.granule_pages > 1)
			break;
		if (model.may_not_tell && any)
			model.reclaimed[i] = false;
		if (any && is_complete(i) && !model.reclaimed[i])
			foresee(i);
	}
	int r = reclaim_take(&reclaim, gpa, nr * PAGE);
	end();
	expect(r == (all_is_ram ? 0 : -EFAULT), "what take returned");
}

/* A region's pages are given back all or not at all. The guest uses the ends at once. */
static void forget_held(unsigned int region, gpa_t gpa, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		unsigned int page = page_at(gpa + i * PAGE);
		if (page == NOWHERE || page / region_pages() != region)
			continue;
		model.held[page] = false;
		model.reclaimed[page / model.granule_pages] = false;
		if (i == 0 || i == nr - 1)
			touch(page);
	}
	settle(region);
}

static void give_back(gpa_t gpa, unsigned int nr)
{
	bool all_is_ram;

	begin("give back", POPULATED);
	check_range(gpa, nr, &all_is_ram);
	for (unsigned int i = 0; i < nr && model.granule_pages > 1; i++) {
		unsigned int page = page_at(gpa + i * PAGE);
		unsigned int granule = page / model.granule_pages;
		if (page == NOWHERE ||
		    !(model.reclaimed[granule] ||
		      (model.unsure[page / region_pages()] && model.held[page])))
			continue;
		if (!model.nr_foreseen ||
		    model.foreseen[model.nr_foreseen - 1].first != granule)
			foresee(granule);
	}
	int r = reclaim_give_back(&reclaim, gpa, nr * PAGE);
	end();
	for (unsigned int i = 0; i < model.failed_region; i++)
		forget_held(i, gpa, nr);
	if (model.error)
		expect(r == -ENOMEM, "a failure to make present goes untold");
	else
		expect(r == (all_is_ram ? 0 : -EFAULT), "what give back returned");
}

/* Bytes, not pages: a report may begin and end anywhere. */
static void report(gpa_t gpa, uint64_t size)
{
	unsigned int page = page_at(gpa);
	int wanted = -EFAULT;

	begin("report", REPORTED);
	if (page != NOWHERE && page_at(gpa + (size - 1)) != NOWHERE &&
	    page_at(gpa + (size - 1)) / region_pages() == page / region_pages()) {
		wanted = model.nr_raised ? -EBUSY : 0;
		model.reports.taken += size;
	}
	for (unsigned int i = 0; i < NR_GRANULES && wanted == 0; i++) {
		gpa_t start = gpa_of(i * model.granule_pages);
		if (start >= gpa && start + model.granule_pages * PAGE <= gpa + size)
			foresee(i);
	}
	int r = reclaim_report(&reclaim, gpa, size);
	end();
	expect(r == (model.error ? model.error : wanted), "what report returned");
}

/* In as many steps as it takes, of which each may fail; nothing is discarded in between. */
static void give_back_all(void)
{
	struct reclaim_figures figures;
	int r;

	do {
		uint64_t most = one_in(2) ? UINT64_MAX : below(8) * PAGE;
		begin("give back all", RESET);
		for (unsigned int i = 0; i < NR_GRANULES && model.granule_pages > 1; i++) {
			if (model.reclaimed[i])
				foresee(i);
		}
		model.nr_reclaimed = model.nr_foreseen;
		for (unsigned int i = 0; i < NR_GRANULES; i++) {
			if (model.unsure[i / REGION_GRANULES] &&
			    memchr(&model.held[i * model.granule_pages], true,
				   model.granule_pages))
				foresee(i);
		}
		r = reclaim_give_back_all(&reclaim, most);
		expect(r == 0 || (r == 1 && most != UINT64_MAX) ||
			       (r == -ENOMEM && model.error),
		       "what give back all returned");
		if (r == 0)
			end();
		reclaim_figures(&reclaim, &figures);
		expect(r == 0 || figures.policy == RECLAIM_INHIBIT, "a discard in between");
		if (one_in(3))
			fail_one_in = 0; /* memory comes back */
	} while (r != 0);
	expect_equal(figures.held, 0, "held after a reset");
	memset(model.held, 0, sizeof(model.held));
	memset(model.reclaimed, 0, sizeof(model.reclaimed));
	memset(model.unsure, 0, sizeof(model.unsure));
}

static void raise_inhibitor(struct inhibitor *inhibitor)
{
	char owner[RECLAIM_OWNER_SIZE];

	begin("raise", NOTHING);
	(void)snprintf(owner, sizeof(owner), "owner %u", below(1000));
	model.raised[model.nr_raised++] = inhibitor;
	for (unsigned int i = 0; i < NR_GRANULES && model.granule_pages > 1; i++)
		model.unsure[i / REGION_GRANULES] |= model.reclaimed[i];
	memset(model.reclaimed, 0, sizeof(model.reclaimed));
	inhibitor_raise(&reclaim, inhibitor, owner);
	end();
	expect(strcmp(inhibitor->owner, owner) == 0, "the owner's name");
}

static void lower_inhibitor(struct inhibitor *inhibitor)
{
	bool was_raised = false;

	begin("lower", HELD);
	for (unsigned int i = 0; i < model.nr_raised; i++) {
		if (model.raised[i] != inhibitor)
			continue;
		was_raised = true;
		model.nr_raised--;
		memmove(&model.raised[i], &model.raised[i + 1],
			(model.nr_raised - i) * sizeof(model.raised[0]));
	}
	if (was_raised && model.nr_raised == 0 && !model.may_not_tell)
		take_directly(model.held);
	inhibitor_lower(&reclaim, inhibitor);
	end();
}

/* One that is not raised, or NULL. */
static struct inhibitor *spare_inhibitor(void)
{
	struct inhibitor *inhibitor = &inhibitors[below(NR_INHIBITORS)];

	for (unsigned int i = 0; i < model.nr_raised; i++) {
		if (model.raised[i] == inhibitor)
			return NULL;
	}
	return inhibitor;
}

/* A range as a guest may name it: mostly small, now and then all there is and more. */
static void random_range(gpa_t *ret_gpa, unsigned int *ret_nr)
{
	unsigned int granule = model.granule_pages;
	unsigned int all = model.nr_pages + 4 * granule;
	unsigned int first = below(all);
	unsigned int nr = 1;

	switch (below(8)) {
	case 0:
	case 1: nr = 1 + below(3); break;
	case 2:
	case 3: nr = 1 + below(3 * granule); break;
	case 4: nr = 1 + below(region_pages() / 2); break;
	case 5:
		first -= first % granule;
		nr = granule * (1 + below(8));
		break;
	case 6: nr = one_in(4) ? 1 + below(all) : nr; break;
	default: break;
	}
	*ret_gpa = region_gpa(0) + ((gpa_t)first - granule) * PAGE;
	*ret_nr = nr;
}

static void random_report(void)
{
	unsigned int nr;
	gpa_t gpa;

	random_range(&gpa, &nr);
	if (one_in(2))
		report(gpa, nr * PAGE);
	else
		report(gpa + below(4096), nr * PAGE - below(4096));
}

/* What is no range of pages is refused, and changes nothing. */
static void random_nonsense(void)
{
	unsigned int nr;
	gpa_t gpa;

	begin("nonsense", NOTHING);
	random_range(&gpa, &nr);
	const uint64_t wrong[][2] = {
		{ gpa + 1 + below(4095), PAGE },
		{ gpa, nr * PAGE + 1 + below(4095) },
		{ gpa, 0 },
		{ gpa, 0 - gpa + PAGE },
	};
	const uint64_t *range = wrong[below(nitems(wrong))];
	expect(reclaim_take(&reclaim, range[0], range[1]) == -EINVAL, "nonsense is taken");
	expect(reclaim_give_back(&reclaim, range[0], range[1]) == -EINVAL,
	       "nonsense is given back");
	end();
}

static void touch_some(void)
{
	unsigned int page = below(model.nr_pages);

	doing = "touch";
	for (unsigned int n = 1 + below(3); n > 0; n--)
		touch((page + n) % model.nr_pages);
}

/*
 * As vfio/group.c attaches: a failure at any step, before or after the raising, ends in the
 * same unwinding. In between the balloon goes on.
 */
static void attach(void)
{
	struct inhibitor *inhibitor = spare_inhibitor();
	unsigned int fails_at = below(8); /* from 4 on: it does not */
	unsigned int before = model.nr_raised;
	unsigned int nr;
	gpa_t gpa;

	if (!inhibitor)
		return;
	if (fails_at > 0)
		raise_inhibitor(inhibitor);
	for (unsigned int i = 1; i < fails_at && i < 4; i++) {
		random_range(&gpa, &nr);
		if (one_in(2))
			take(gpa, nr);
		else
			give_back(gpa, nr);
		touch_some();
	}
	if (fails_at >= 4)
		return;
	lower_inhibitor(inhibitor);
	expect_equal(reclaim_inhibitors(&reclaim), before, "inhibitors after a failed attach");
}

static void detach(void)
{
	if (model.nr_raised == 0 || one_in(10))
		lower_inhibitor(&inhibitors[below(NR_INHIBITORS)]); /* raised or not */
	else
		lower_inhibitor(model.raised[below(model.nr_raised)]);
}

static void detach_all(void)
{
	while (model.nr_raised)
		lower_inhibitor(model.raised[below(model.nr_raised)]);
}

/* The driver starts anew, and may be another one. */
static void reset(void)
{
	give_back_all();
	model.may_not_tell = one_in(4);
	reclaim_set_driver(&reclaim, model.may_not_tell ? RECLAIM_DRIVER_MAY_NOT_TELL
							: RECLAIM_DRIVER_TELLS_FIRST);
}

/* The second region leaves, with its books, or comes back with new ones. */
static void replug(void)
{
	begin("replug", NOTHING);
	if (model.plugged[1]) {
		memory_map_remove(&map, &regions[1]);
		memset(&model.held[region_pages()], 0, region_pages() * sizeof(model.held[0]));
		model.unsure[1] = false;
		memset(&model.reclaimed[REGION_GRANULES], 0,
		       REGION_GRANULES * sizeof(model.reclaimed[0]));
		model.waits[1] = false;
	} else {
		expect(memory_map_add(&map, &regions[1]) == 0, "the region cannot be added");
	}
	model.plugged[1] = !model.plugged[1];
	end();
}

/* Sums could be right by chance. What is held is told apart page by page, by giving it back. */
static void audit(void)
{
	struct reclaim_figures before;
	struct reclaim_figures after;

	detach_all();
	fail_one_in = 0;
	reclaim_figures(&reclaim, &before);
	for (unsigned int i = 0; i < model.nr_pages; i++) {
		bool was_held = model.held[i];
		if (!model.plugged[i / region_pages()])
			continue;
		give_back(gpa_of(i), 1);
		reclaim_figures(&reclaim, &after);
		expect_equal(before.held - after.held, was_held ? PAGE : 0,
			     "how much a page held");
		before = after;
	}
}

static void random_step(void)
{
	static const unsigned int weathers[] = { 0, 0, 20, 3, 1 };
	unsigned int dice = below(1000);
	unsigned int nr;
	gpa_t gpa;

	random_range(&gpa, &nr);
	if (dice < 330)
		take(gpa, nr);
	else if (dice < 600)
		give_back(gpa, nr);
	else if (dice < 680)
		random_report();
	else if (dice < 760)
		attach();
	else if (dice < 850)
		detach();
	else if (dice < 855)
		detach_all();
	else if (dice < 900)
		touch_some();
	else if (dice < 950)
		tick();
	else if (dice < 970)
		random_nonsense();
	else if (dice < 975)
		reset();
	else if (dice < 980)
		replug();
	else
		fail_one_in = weathers[below(nitems(weathers))];
	if (one_in(20000))
		audit();
}

static void add_regions(void)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		regions[i] = (struct memory_region){
			.gpa = region_gpa(i),
			.size = region_pages() * PAGE,
			.host = (char *)ram.host + offset_of(i * region_pages()),
			.ram = &ram,
			.name = "ram",
		};
		ck_assert_int_eq(memory_map_add(&map, &regions[i]), 0);
		model.plugged[i] = true;
	}
}

static void run(enum ram_backing backing, unsigned int granule_pages,
		enum reclaim_policy inhibited)
{
	model.granule_pages = granule_pages;
	model.nr_pages = NR_GRANULES * granule_pages;
	model.unsafe = inhibited == RECLAIM_UNSAFE;
	random_state = seed * 4 + 1;
	process_keep_log();
	ck_assert_int_eq(ram_init(&ram, model.nr_pages * PAGE, backing), 0);
	/* A huge page would bring back more than was touched. */
	ck_assert_int_eq(madvise(ram.host, ram.size, MADV_NOHUGEPAGE), 0);
	ram.page_size = granule_pages * PAGE;
	memory_map_init(&map);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, inhibited, 0), 0);
	add_regions();
	doing = "start";
	for (unsigned int i = 0; i < model.nr_pages; i++)
		touch(i);
	for (step = 0; step < nr_steps / 4; step++) {
		random_step();
		expect_figures();
		expect_contents();
		if (step % 16 == 0)
			expect_gone();
		if (step % 256 == 0)
			(void)process_log(); /* there is room for only so much */
	}
	audit();
	reclaim_finish(&reclaim);
}

START_TEST(base_pages_follow_the_model)
{
	run(RAM_ANONYMOUS, 1, RECLAIM_INHIBIT);
}
END_TEST

START_TEST(granules_of_many_pages_follow_the_model)
{
	run(RAM_MEMFD, MAX_GRANULE_PAGES, RECLAIM_INHIBIT);
}
END_TEST

START_TEST(base_pages_follow_the_model_when_unsafe)
{
	run(RAM_MEMFD, 1, RECLAIM_UNSAFE);
}
END_TEST

START_TEST(granules_of_many_pages_follow_the_model_when_unsafe)
{
	run(RAM_ANONYMOUS, MAX_GRANULE_PAGES, RECLAIM_UNSAFE);
}
END_TEST

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

int main(void)
{
	const TTest *const tests[] = {
		base_pages_follow_the_model,
		granules_of_many_pages_follow_the_model,
		base_pages_follow_the_model_when_unsafe,
		granules_of_many_pages_follow_the_model_when_unsafe,
	};

	seed = from_environment("BALLAST_SEED", (uint64_t)time(NULL));
	nr_steps = from_environment("BALLAST_STEPS",
				    __sanitizer_set_report_fd ? NR_SANITIZED_STEPS : NR_STEPS);
	printf("%" PRIu64 " steps, BALLAST_SEED=%" PRIu64 "\n", nr_steps, seed);
	(void)fflush(stdout);
	return run_tests("reclaim_model", NULL, NULL, tests, nitems(tests));
}

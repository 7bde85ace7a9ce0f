/* SPDX-License-Identifier: MIT */
/*
 * Reclaim with pinners, against what a device would see. Each page has a frame: a number that
 * changes when the host takes the page back. A pinner keeps, as an IOMMU does, the frames it
 * found when it pinned. Random steps are done, any call may fail, and after each step: what the
 * guest may use, every pinner has pinned, with the frame that is there now; what a pinner has
 * pinned is never discarded.
 *
 * BALLAST_SEED repeats a run, BALLAST_STEPS makes it longer or shorter.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/sanitizer.h"

#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define NR_STEPS 1000000u
#define NR_SANITIZED_STEPS 200000u
#define GRANULE_PAGES 4u
#define LOW_PAGES 62u /* the last granule is an odd one */
#define HIGH_PAGES 32u
#define NR_PAGES (LOW_PAGES + HIGH_PAGES)
#define HIGH_GPA 0x100000000ull
#define NR_PINNERS 3u
#define NR_INHIBITORS 2u
#define NOWHERE NR_PAGES

struct device {
	struct pinner pinner;
	bool attached; /* it has pinned all there is to pin */
	bool busy;     /* it is about to, or about to leave */
	bool pinned[NR_PAGES];
	unsigned int frames[NR_PAGES];
};

static struct ram ram;
static struct memory_map map;
static struct memory_region low, high;
static struct reclaim reclaim;
static struct device devices[NR_PINNERS];
static struct inhibitor inhibitors[NR_INHIBITORS];

static bool raised[NR_INHIBITORS];
static bool may_not_tell;
static bool held[NR_PAGES];    /* the balloon took it and has not given it back */
static bool unknown[NR_PAGES]; /* a give back that failed may or may not have done it */
static unsigned int frames[NR_PAGES];

static uint64_t seed, nr_steps, step;
static const char *doing;
static unsigned int fail_one_in;
static unsigned int nr_discards, nr_undone;

static void expect(bool ok, const char *what)
{
	if (!ok)
		ck_abort_msg("seed %" PRIu64 ", step %" PRIu64 ", %s: %s", seed, step, doing,
			     what);
}

/* Marsaglia's xorshift. */
static uint64_t random_state;

static unsigned int below(unsigned int n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned int)((random_state >> 16) % n);
}

static bool one_in(unsigned int n)
{
	return n && below(n) == 0;
}

static gpa_t gpa_of(unsigned int page)
{
	return page < LOW_PAGES ? page * PAGE : HIGH_GPA + (page - LOW_PAGES) * PAGE;
}

static unsigned int page_at(gpa_t gpa)
{
	if (gpa < LOW_PAGES * PAGE)
		return (unsigned int)(gpa / PAGE);
	if (gpa >= HIGH_GPA && gpa < HIGH_GPA + HIGH_PAGES * PAGE)
		return LOW_PAGES + (unsigned int)((gpa - HIGH_GPA) / PAGE);
	return NOWHERE;
}

static bool is_inhibited(void)
{
	return raised[0] || raised[1];
}

/* The kernel's side */

int __real_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __real_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size);

int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size)
{
	nr_discards++;
	expect(!is_inhibited(), "a discard under an inhibitor");
	for (uint64_t page = offset / PAGE; page < (offset + size) / PAGE; page++) {
		for (unsigned int i = 0; i < NR_PINNERS; i++)
			expect(!devices[i].pinned[page], "a discard of what is pinned");
		expect(held[page] || unknown[page], "a discard of what is not held");
	}
	if (one_in(fail_one_in))
		return -EAGAIN;
	for (uint64_t page = offset / PAGE; page < (offset + size) / PAGE; page++)
		frames[page]++;
	return __real_ram_discard(block, offset, size);
}

int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size)
{
	return one_in(fail_one_in) ? -ENOMEM : __real_ram_populate(block, offset, size);
}

/* Whole granules of a region, whose last one may be smaller. */
static void expect_granules(const struct memory_region *region, gpa_t gpa, uint64_t size)
{
	expect((gpa - region->gpa) % (GRANULE_PAGES * PAGE) == 0, "half a granule");
	expect(size % (GRANULE_PAGES * PAGE) == 0 || gpa + size == region->gpa + region->size,
	       "half a granule");
}

static int device_discard(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			  uint64_t size)
{
	struct device *device = container_of(pinner, struct device, pinner);

	expect_granules(region, gpa, size);
	expect(!is_inhibited() || nr_undone, "an unmap under an inhibitor");
	for (unsigned int page = page_at(gpa); page < page_at(gpa) + size / PAGE; page++) {
		/* One that fails has done a part. */
		if (page % GRANULE_PAGES == 0 && one_in(fail_one_in))
			return -EIO;
		device->pinned[page] = false;
	}
	return 0;
}

static int device_populate(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			   uint64_t size)
{
	struct device *device = container_of(pinner, struct device, pinner);

	expect_granules(region, gpa, size);
	if (one_in(fail_one_in)) {
		nr_undone++; /* the others are asked to let go again */
		return -ENOMEM;
	}
	for (unsigned int page = page_at(gpa); page < page_at(gpa) + size / PAGE; page++) {
		if (!device->pinned[page])
			device->frames[page] = frames[page];
		device->pinned[page] = true;
	}
	return 0;
}

static const struct pinner_ops device_ops = {
	.discard = device_discard,
	.populate = device_populate,
};

/* What must hold between any two steps */

static unsigned int nr_joined(void)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < NR_PINNERS; i++)
		nr += devices[i].attached || devices[i].busy;
	return nr;
}

static void expect_coherent(void)
{
	for (unsigned int i = 0; i < NR_PINNERS; i++) {
		const struct device *device = &devices[i];
		for (unsigned int page = 0; page < NR_PAGES; page++) {
			if (device->pinned[page])
				expect(device->frames[page] == frames[page],
				       "CPU and device see different memory");
			else
				expect(!device->attached || held[page] || unknown[page],
				       "the guest's page is not pinned");
		}
	}
}

static void expect_figures(void)
{
	struct reclaim_figures f;
	uint64_t nr_held = 0, nr_unknown = 0;

	for (unsigned int page = 0; page < NR_PAGES; page++) {
		nr_held += held[page];
		nr_unknown += unknown[page] && !held[page];
	}
	reclaim_figures(&reclaim, &f);
	expect(f.held >= nr_held * PAGE && f.held <= (nr_held + nr_unknown) * PAGE, "held");
	expect(f.reclaimed <= f.held && f.held_back == f.held - f.reclaimed, "held back");
	expect(f.incomplete + f.resting <= f.held_back, "why it is held back");
	expect(f.nr_pinners == nr_joined(), "the number of pinners");
	expect(f.nr_inhibitors == (unsigned int)raised[0] + raised[1], "of inhibitors");
	if (is_inhibited())
		expect(f.policy == RECLAIM_INHIBIT, "the policy");
	else if (nr_joined())
		expect(f.policy == (may_not_tell ? RECLAIM_INHIBIT : RECLAIM_COORDINATED),
		       "the policy");
	else
		expect(f.policy == RECLAIM_DIRECT, "the policy");
}

/* Steps */

static void take(unsigned int first, unsigned int nr)
{
	doing = "take";
	nr_discards = 0;
	for (unsigned int i = first; i < first + nr; i++)
		held[i] = true;
	expect(reclaim_take(&reclaim, gpa_of(first), nr * PAGE) == 0, "what take returned");
	expect(nr_discards == 0 || !nr_joined() || !may_not_tell,
	       "a discard for a driver that does not tell");
}

/* As the balloon does: not acknowledged before it works. */
static void give_back(unsigned int first, unsigned int nr)
{
	unsigned int weather = fail_one_in;
	int r;

	doing = "give back";
	memset(unknown + first, true, nr);
	while ((r = reclaim_give_back(&reclaim, gpa_of(first), nr * PAGE)) == -ENOMEM) {
		expect(weather != 0, "no memory, though there is some");
		expect_coherent();
		expect_figures();
		if (one_in(2))
			fail_one_in = 0;
	}
	expect(r == 0, "what give back returned");
	memset(held + first, false, nr);
	memset(unknown + first, false, nr);
	fail_one_in = weather;
}

static void give_back_all(void)
{
	unsigned int weather = fail_one_in;
	int r;

	doing = "give back all";
	while ((r = reclaim_give_back_all(&reclaim, one_in(2) ? PAGE : UINT64_MAX)) != 0) {
		expect(r > 0 || weather != 0, "no memory, though there is some");
		expect_coherent();
		if (one_in(2))
			fail_one_in = 0;
	}
	memset(held, false, sizeof(held));
	fail_one_in = weather;
	may_not_tell = one_in(8);
	reclaim_set_driver(&reclaim, may_not_tell ? RECLAIM_DRIVER_MAY_NOT_TELL
						  : RECLAIM_DRIVER_TELLS_FIRST);
}

/* Not by way of memory/ram or reclaim: as a container closes. */
static void unpin_all(struct device *device)
{
	memset(device->pinned, false, sizeof(device->pinned));
	pinner_leave(&reclaim, &device->pinner);
	device->busy = false;
}

static void random_balloon(void)
{
	unsigned int region = below(2);
	unsigned int first = region ? LOW_PAGES : 0;
	unsigned int pages = region ? HIGH_PAGES : LOW_PAGES;
	unsigned int at = below(pages);
	unsigned int nr = 1 + below(one_in(3) ? pages - at : 3);

	if (nr > pages - at)
		nr = pages - at;
	if (one_in(2))
		take(first + at, nr);
	else
		give_back(first + at, nr);
}

/* As vfio/container.c does, with the balloon at work in between, and a failure at any step. */
static void attach(struct device *device)
{
	doing = "attach";
	device->busy = true;
	pinner_join(&reclaim, &device->pinner);
	expect_coherent();
	int r = pinner_pin(&reclaim, &device->pinner, &low);
	for (unsigned int i = below(3); i > 0 && r >= 0; i--)
		random_balloon();
	doing = "attach";
	if (r >= 0)
		r = pinner_pin(&reclaim, &device->pinner, &high);
	if (r < 0) {
		expect(fail_one_in != 0, "it fails, though all is well");
		unpin_all(device);
		return;
	}
	device->busy = false;
	device->attached = true;
}

static void detach(struct device *device)
{
	doing = "detach";
	device->attached = false;
	device->busy = true;
	unpin_all(device);
}

static void switch_inhibitor(unsigned int i)
{
	doing = "switch an inhibitor";
	raised[i] = !raised[i];
	nr_undone = 0;
	if (raised[i])
		inhibitor_raise(&reclaim, &inhibitors[i], "somebody");
	else
		inhibitor_lower(&reclaim, &inhibitors[i]);
}

/* As a change of policy does. */
static void restore_all(void)
{
	struct reclaim_figures f;

	doing = "restore";
	if (!is_inhibited())
		return;
	nr_undone = 0;
	int r = reclaim_restore(&reclaim, UINT64_MAX);
	expect(r == 0 || (r == -ENOMEM && fail_one_in), "what restore returned");
	reclaim_figures(&reclaim, &f);
	expect(r < 0 || f.reclaimed == 0, "not all is live");
}

/* With nothing in the way, and after a rest, all that can be reclaimed is. */
static void calm(void)
{
	struct reclaim_figures f;

	doing = "calm";
	fail_one_in = 0;
	for (unsigned int i = 0; i < NR_INHIBITORS; i++) {
		if (raised[i])
			switch_inhibitor(i);
	}
	for (unsigned int i = 0; reclaim_tick(&reclaim); i++)
		expect(i < 2, "it never rests");
	(void)reclaim_tick(&reclaim);
	reclaim_figures(&reclaim, &f);
	if (nr_joined() && !may_not_tell)
		expect(f.held_back == f.incomplete && f.resting == 0,
		       "more could be reclaimed");
}

static void random_step(void)
{
	static const unsigned int weathers[] = { 0, 0, 0, 30, 8, 2 };
	struct device *device = &devices[below(NR_PINNERS)];
	unsigned int dice = below(1000);

	nr_undone = 1;
	if (dice < 800)
		random_balloon();
	else if (dice < 860)
		device->attached ? detach(device) : attach(device);
	else if (dice < 900)
		switch_inhibitor(below(NR_INHIBITORS));
	else if (dice < 920)
		restore_all();
	else if (dice < 940)
		give_back_all();
	else if (dice < 970)
		(void)reclaim_tick(&reclaim);
	else if (dice < 980)
		calm();
	else
		fail_one_in = weathers[below(nitems(weathers))];
}

static void make_world(enum ram_backing backing)
{
	process_keep_log();
	ck_assert_int_eq(ram_init(&ram, NR_PAGES * PAGE, backing), 0);
	memory_map_init(&map);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, GRANULE_PAGES * PAGE),
			 0);
	low = (struct memory_region){
		.size = LOW_PAGES * PAGE, .host = ram.host, .ram = &ram, .name = "low"
	};
	high = (struct memory_region){ .gpa = HIGH_GPA,
				       .size = HIGH_PAGES * PAGE,
				       .host = (char *)ram.host + LOW_PAGES * PAGE,
				       .ram = &ram,
				       .name = "high" };
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	for (unsigned int i = 0; i < NR_PINNERS; i++)
		devices[i].pinner.ops = &device_ops;
}

static void run(enum ram_backing backing)
{
	random_state = seed * 4 + 1;
	make_world(backing);
	for (step = 0; step < nr_steps / 2; step++) {
		random_step();
		expect_coherent();
		expect_figures();
		if (step % 256 == 0)
			(void)process_log(); /* there is room for only so much */
	}
	calm();
	give_back_all();
	for (unsigned int i = 0; i < NR_PINNERS; i++) {
		if (devices[i].attached)
			detach(&devices[i]);
	}
	reclaim_finish(&reclaim);
}

START_TEST(anonymous_memory_stays_one)
{
	run(RAM_ANONYMOUS);
}
END_TEST

START_TEST(shared_memory_stays_one)
{
	run(RAM_MEMFD);
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
		anonymous_memory_stays_one,
		shared_memory_stays_one,
	};

	seed = from_environment("BALLAST_SEED", (uint64_t)time(NULL));
	nr_steps = from_environment("BALLAST_STEPS",
				    __sanitizer_set_report_fd ? NR_SANITIZED_STEPS : NR_STEPS);
	printf("%" PRIu64 " steps, BALLAST_SEED=%" PRIu64 "\n", nr_steps, seed);
	(void)fflush(stdout);
	return run_tests("reclaim_pinners", NULL, NULL, tests, nitems(tests));
}

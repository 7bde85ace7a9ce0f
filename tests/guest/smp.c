/* SPDX-License-Identifier: MIT */
/*
 * smp.c - every processor starts, knows who it is, adds its share, and hears the others.
 */
#include "tests/guest/guest.h"

#define VECTOR_PING 0x40
#define VECTOR_PONG 0x41
#define VECTOR_ALL 0x42
#define SHARE 100u
#define MAX_CPUS 16u
#define ICR_ALL_BUT_SELF 0xc0000u
#define ICR_SELF 0x40000u

static volatile uint32_t sum;
static volatile uint32_t waiting;
static volatile uint32_t pings[MAX_CPUS];
static volatile uint32_t pongs;
static volatile uint32_t broadcasts;
static volatile uint32_t started[MAX_CPUS];

static void add_share(void)
{
	for (uint32_t i = 0; i < SHARE; i++)
		__atomic_fetch_add(&sum, 1, __ATOMIC_SEQ_CST);
}

static void ping(void)
{
	pings[apic_id()]++;
	apic_eoi();
	apic_send(0, VECTOR_PONG);
}

static void pong(void)
{
	pongs++;
	apic_eoi();
}

static void broadcast(void)
{
	__atomic_fetch_add(&broadcasts, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void run_ap(unsigned int id)
{
	CHECK(id > 0 && id < MAX_CPUS);
	CHECK_EQ(cpuid(1, 0).b >> 24, id);
	started[id]++;
	add_share();
	__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
	for (;;)
		halt();
}

/* Topology: one socket, one thread a core. */
static void check_topology(unsigned int nr_cpus)
{
	CHECK_EQ(cpuid(1, 0).b >> 24, 0);
	CHECK(cpuid(1, 0).c >> 31); /* a hypervisor is there */
	if (nr_cpus > 1)
		CHECK(cpuid(1, 0).b >> 16 >= nr_cpus % 256 || !(cpuid(1, 0).d >> 28 & 1));
}

int guest_main(void)
{
	unsigned int nr_cpus = (unsigned int)option("cpus");

	CHECK_EQ(apic_id(), 0);
	check_topology(nr_cpus);
	interrupt_handle(VECTOR_PING, ping);
	interrupt_handle(VECTOR_PONG, pong);
	interrupt_handle(VECTOR_ALL, broadcast);
	smp_start(nr_cpus, run_ap);
	CHECK_EQ(smp_arrived(), nr_cpus - 1);
	add_share();
	wait_for(&waiting, nr_cpus - 1);
	CHECK_EQ(sum, nr_cpus * SHARE);
	for (unsigned int id = 1; id < nr_cpus; id++)
		CHECK_EQ(started[id], 1);

	interrupts_on();
	for (unsigned int id = 1; id < nr_cpus; id++) {
		apic_send(id, VECTOR_PING);
		wait_for(&pongs, id);
		CHECK_EQ(pings[id], 1);
		CHECK_EQ(pongs, id);
	}
	apic_send(0, VECTOR_ALL | ICR_ALL_BUT_SELF);
	wait_for(&broadcasts, nr_cpus - 1);
	wait_a_while();
	CHECK_EQ(broadcasts, nr_cpus - 1);
	apic_send(0, VECTOR_PONG | ICR_SELF);
	wait_for(&pongs, nr_cpus);
	CHECK_EQ(pongs, nr_cpus);
	/* One that is not there starts nobody. */
	apic_send(nr_cpus, 0x4500);
	apic_send(nr_cpus, 0x4640);
	wait_a_while();
	CHECK_EQ(smp_arrived(), nr_cpus - 1);
	return 0;
}

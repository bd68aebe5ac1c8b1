// Chance, from the run's seed (splitmix64).

#include "tests/sim/sim.h"

uint64_t sim_mix(uint64_t a, uint64_t b) {
    uint64_t z = a ^ (b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2));
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint64_t sim_random(void) {
    uint64_t z = sim.random += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint64_t sim_below(uint64_t n) {
    return n > 1 ? sim_random() % n : 0;
}

bool sim_chance(unsigned per_mille) {
    return sim_below(1000) < per_mille;
}

// Geometric steps of mean/8: no floating point, so the same on every machine.
uint64_t sim_exponential(uint64_t mean) {
    uint64_t step = mean / 8 + 1, sum = sim_below(step);
    while (sim_below(8) != 0) {
        sum += step;
    }
    return sum;
}

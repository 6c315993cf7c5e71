/// The simulated world: virtual time, modelled machines and links, faults, all of it from one seed.
export module shoal.sim;

export import :api;
export import :congestion;

/// The node: a peer with its tracker session, its sessions with other peers, its uploads and downloads.
export module shoal.peer;

export import :api;

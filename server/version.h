// The version of this program, from the build.
#ifndef NODELINK_SERVER_VERSION_H
#define NODELINK_SERVER_VERSION_H

#ifndef NL_VERSION
#define NL_VERSION "0.0.0-dev"
#endif

#endif
